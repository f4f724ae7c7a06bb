"""Which part of the model the time of a training step is spent in.

The passes in `gpt_core.model.gpt` look their kernels up as attributes of the kernels' modules, so they can be timed
without a word about it in the model: for the time of a `with` block, every kernel is replaced by a function that calls
it and adds the seconds to the part it works for. A linear layer's part follows from the weight it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from gpt_core.kernels import adamw, attention, cross_entropy, embedding, gelu, layer_norm, linear
from gpt_core.model.parameters import Parameters

PARTS = (
    "data",
    "embedding",
    "norms",
    "attention_linears",
    "attention_scores",
    "mlp_linears",
    "gelu",
    "loss",  # with the logits and their gradient
    "optimizer",  # with the gradient norm that clipping needs
)

Kernel = Callable[..., Any]
PartOf = Callable[[tuple[Any, ...]], str]  # from the arguments of a call to its part

# module, function, part; or for the linear layers, which argument of theirs is the weight
WATCHED: tuple[tuple[Any, str, str | int], ...] = (
    (embedding, "forward", "embedding"),
    (embedding, "backward", "embedding"),
    (layer_norm, "forward", "norms"),
    (layer_norm, "backward", "norms"),
    (linear, "forward", 2),
    (linear, "backward", 5),
    (linear, "product", "loss"),  # the model's only products without a bias are those of the logits
    (attention, "forward", "attention_scores"),
    (attention, "backward", "attention_scores"),
    (gelu, "forward", "gelu"),
    (gelu, "backward", "gelu"),
    (cross_entropy, "forward", "loss"),
    (cross_entropy, "forward_backward", "loss"),
    (adamw, "norm", "optimizer"),
    (adamw, "update", "optimizer"),
)

OVERHEAD_CALLS = 5000


class Profile(NamedTuple):
    """Seconds spent in each part, and how many calls were timed."""

    seconds: dict[str, float]
    calls: int


class Profiler:
    """Times the kernels of this process inside `with`, which must not be nested. For one thread that computes.

    A linear layer on other weights than those of `parameters` raises KeyError.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._part_of_weight = {
            id(tensor): "attention_linears" if ".attn." in name else "mlp_linears"
            for name, tensor in parameters.tensors.items()
            if ".attn." in name or ".mlp." in name
        }
        self._parameters = parameters  # keeps the tensors alive, and so their ids theirs
        self._watched = [(module, name, self._part_of(part)) for module, name, part in WATCHED]
        self._replaced: list[tuple[Any, str, Kernel, bool]] = []
        self._seconds: dict[str, float] = {}
        self._calls = 0
        self.take()

    def watch(self, owner: object, name: str, part: str) -> None:
        """Also times the calls of another attribute of anything, from the next `with` on."""
        self._watched.append((owner, name, self._part_of(part)))

    def take(self) -> Profile:
        """What was spent since the last call of this."""
        taken = Profile(self._seconds, self._calls)
        self._seconds, self._calls = dict.fromkeys(PARTS, 0.0), 0
        return taken

    def __enter__(self) -> Profiler:
        for owner, name, part_of in self._watched:
            kernel = getattr(owner, name)
            self._replaced.append((owner, name, kernel, name in vars(owner)))
            setattr(owner, name, self.timed(kernel, part_of))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._replaced:
            owner, name, kernel, is_own = self._replaced.pop()
            if is_own:
                setattr(owner, name, kernel)
            else:
                delattr(owner, name)  # a method: its class has it

    def timed(self, kernel: Kernel, part_of: PartOf) -> Kernel:
        """The same function, timed."""

        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = kernel(*arguments, **options)
            seconds = time.perf_counter() - started
            self._seconds[part_of(arguments)] += seconds
            self._calls += 1
            return result

        return call

    def _part_of(self, part: str | int) -> PartOf:
        if isinstance(part, int):
            return lambda arguments: self._part_of_weight[id(arguments[part])]
        return lambda _arguments: part


def overhead_per_call(parameters: Parameters) -> float:
    """Seconds by which timing lengthens one call, from calls of a kernel that does nothing."""

    def nothing(*_arguments: Any) -> None: ...

    profiler = Profiler(parameters)
    seconds = []
    for function in (nothing, profiler.timed(nothing, lambda _arguments: "data")):
        started = time.perf_counter()
        for _ in range(OVERHEAD_CALLS):
            function(None, None, None)
        seconds.append(time.perf_counter() - started)
    return max(0.0, seconds[1] - seconds[0]) / OVERHEAD_CALLS
