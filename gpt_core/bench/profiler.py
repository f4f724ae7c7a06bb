"""Profiler: seconds per part of the model in a training step.

Layers look up kernels as attributes of the kernels' modules. Within a `with` block the profiler replaces each kernel by
a function that calls it and adds the duration to a part, so the model needs no code for it. The part of a linear layer
follows from the weight it is called with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from gpt_core.kernels import (
    attention,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layer_norm,
    linear,
    relu_squared,
    rms_norm,
    rope,
    shortcut,
    swiglu,
)
from gpt_core.model.layers.layer import LrGroup
from gpt_core.model.parameters import Parameters
from gpt_core.optim import Optimizer

PARTS = (
    "data",
    "embedding",  # with rotary positions and shortcuts
    "norms",
    "attention_linears",
    "attention_scores",
    "mlp_linears",
    "activation",
    "dropout",  # of the embedding and of the branches; that of attention is part of its scores
    "loss",  # with the logits and their gradient
    "optimizer",  # with the gradient norm that clipping needs
)

Kernel = Callable[..., Any]
PartOf = Callable[[tuple[Any, ...]], str]  # from the arguments of a call to its part

# module, function, part; for linear layers, the position of the argument that is the weight
TIMED_KERNELS: tuple[tuple[Any, str, str | int], ...] = (
    (embedding, "forward", "embedding"),
    (embedding, "backward", "embedding"),
    (rope, "rotate", "embedding"),
    (shortcut, "forward", "embedding"),
    (shortcut, "backward", "embedding"),
    (layer_norm, "forward", "norms"),
    (layer_norm, "backward", "norms"),
    (rms_norm, "forward", "norms"),
    (rms_norm, "backward", "norms"),
    (rms_norm, "heads_forward", "norms"),
    (rms_norm, "heads_backward", "norms"),
    (linear, "forward", 2),
    (linear, "backward", 5),
    (linear, "product", "loss"),  # the only products without a bias are those of the logits
    (attention, "forward", "attention_scores"),
    (attention, "backward", "attention_scores"),
    (gelu, "forward", "activation"),
    (gelu, "backward", "activation"),
    (relu_squared, "forward", "activation"),
    (relu_squared, "backward", "activation"),
    (swiglu, "forward", "activation"),
    (swiglu, "backward", "activation"),
    (dropout, "apply", "dropout"),
    (cross_entropy, "forward", "loss"),
    (cross_entropy, "forward_backward", "loss"),
)

PART_OF_LINEARS: dict[LrGroup, str] = {"attn": "attention_linears", "mlp": "mlp_linears"}

OVERHEAD_CALLS, OVERHEAD_ROUNDS = 1000, 5


class Profile(NamedTuple):
    """Seconds per part, and the number of timed calls."""

    seconds: dict[str, float]
    calls: int


class Profiler:
    """Context manager that times the kernels of this process; not reentrant, and for one computing thread.

    A linear layer with other weights than those of `parameters` raises KeyError.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._part_of_weight = {
            id(parameters[spec.name]): PART_OF_LINEARS[spec.lr_group]
            for spec in parameters.table
            if spec.lr_group in PART_OF_LINEARS
        }
        self._parameters = parameters  # keeps the tensors alive, so that no other object gets their ids
        self._timed = [(module, name, self._part_of(part)) for module, name, part in TIMED_KERNELS]
        self._replaced: list[tuple[Any, str, Kernel, bool]] = []
        self._seconds: dict[str, float] = {}
        self._calls = 0
        self.take()

    def add(self, owner: object, name: str, part: str) -> None:
        """Time the calls of `owner.name` too, from the next `with` on."""
        self._timed.append((owner, name, self._part_of(part)))

    def add_optimizer(self, optimizer: Optimizer) -> None:
        """Time the updates of an optimizer and of the average, and the gradient norm too, from the next `with` on."""
        for method in ("gradient_norm", "update", "update_average"):
            self.add(optimizer, method, "optimizer")

    def take(self) -> Profile:
        """Return the profile since the last call, and start a new one."""
        taken = Profile(self._seconds, self._calls)
        self._seconds, self._calls = dict.fromkeys(PARTS, 0.0), 0
        return taken

    def __enter__(self) -> Profiler:
        for owner, name, part_of in self._timed:
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
                delattr(owner, name)  # a method: the class still has it

    def timed(self, kernel: Kernel, part_of: PartOf) -> Kernel:
        """Return `kernel` with timing."""

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
    """Return the seconds that timing adds to one call, measured on a function that does nothing.

    The fastest of several rounds counts, because other load on the machine only adds time.
    """

    def nothing(*_arguments: Any) -> None: ...

    profiler = Profiler(parameters)
    functions = (nothing, profiler.timed(nothing, lambda _arguments: "data"))
    fastest = [math.inf, math.inf]
    for _ in range(OVERHEAD_ROUNDS):
        for number, function in enumerate(functions):
            started = time.perf_counter()
            for _ in range(OVERHEAD_CALLS):
                function(None, None, None)
            fastest[number] = min(fastest[number], time.perf_counter() - started)
    return max(0.0, fastest[1] - fastest[0]) / OVERHEAD_CALLS
