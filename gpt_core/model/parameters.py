"""Parameter table of a model, and the flat buffer that holds one value per parameter.

The rows of the table are declared by the layers (`gpt_core.model.layers`). Names and layouts are those of Hugging
Face's `GPT2LMHeadModel`: a linear weight is (in, out), `c_attn` holds the columns of query, key and value side by side,
and `wte` is both the token embedding and, if the head is tied, the matrix of the logits. A model with other layers than
GPT-2's has other rows; with a gate, `c_fc` holds the columns of gate and hidden units side by side.

Sizes, initial values, learning-rate groups, weight decay, checkpoint keys and the parameter count derive
from the table.
"""

from __future__ import annotations

import math
from collections.abc import Container
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from gpt_core.config.freezing import FINAL_NORM, HEAD, POSITIONS, TOKENS, frozen_parts, layer_part
from gpt_core.config.settings import ModelShape
from gpt_core.kernels.arrays import Array, whole_lines, zeros
from gpt_core.model.layers.layer import LrGroup, ParameterSpec
from gpt_core.model.layers.transformer import Transformer
from gpt_core.model.precision import PRECISION, DType

INIT_STD = 0.02
Projections = Literal["scaled", "zero"]
"""Initial values of the projections into the residual stream."""


@lru_cache(maxsize=16)
def parameter_table(shape: ModelShape) -> tuple[ParameterSpec, ...]:
    """Return every parameter of a model of this shape, in the order in which the forward pass uses them."""
    return tuple(Transformer(shape).parameter_specs())


def parameter_count(shape: ModelShape) -> int:
    """Return the number of values in the table."""
    return sum(spec.size for spec in parameter_table(shape))


def part_of(name: str) -> str:
    """Return the part of the model that a parameter belongs to, as `gpt_core.config.freezing.model_parts` names it."""
    kind, _, rest = name.partition(".")
    if kind == "h":
        return layer_part(int(rest.partition(".")[0]))
    return {"wte": TOKENS, "wpe": POSITIONS, "ln_f": FINAL_NORM, "lm_head": HEAD}[kind]


def frozen_names(shape: ModelShape, freeze: str) -> frozenset[str]:
    """Return the names of the parameters that the setting `freeze` keeps as they are.

    Raises:
        ConfigError: The setting does not fit the model.
    """
    parts = frozen_parts(freeze, shape)
    return frozenset(spec.name for spec in parameter_table(shape) if part_of(spec.name) in parts)


def trained_count(shape: ModelShape, freeze: str) -> int:
    """Return the number of values that are trained, which is `parameter_count` if nothing is frozen.

    Raises:
        ConfigError: The setting does not fit the model.
    """
    frozen = frozen_names(shape, freeze)
    return sum(spec.size for spec in parameter_table(shape) if spec.name not in frozen)


class Segment(NamedTuple):
    """Range of the flat buffer whose tensors share learning-rate group and weight decay."""

    start: int
    stop: int
    lr_group: LrGroup
    decay: bool
    first: str
    """name of its first tensor"""


class Parameters:
    """One value per parameter of a model shape: weights, gradients or optimizer state.

    `flat` is one aligned buffer; `tensors` maps each name to its view of it. Tensors that share learning rate and
    decay are adjacent (`segments`), so that the optimizer makes one pass over each segment.

    Args:
        shape: Shape of the model.
        dtype: Type of the values.
        names: Parameters that have values, None for all of the shape.
    """

    def __init__(
        self, shape: ModelShape, dtype: DType = PRECISION.weights, names: Container[str] | None = None
    ) -> None:
        self.shape = shape
        self.table = tuple(spec for spec in parameter_table(shape) if names is None or spec.name in names)
        self._by_name: dict[str, Segment] = {}  # in the order of the buffer
        end = 0
        for spec in sorted(self.table, key=lambda spec: (spec.lr_group, not spec.decay)):
            start, end = end, end + whole_lines(spec.size, dtype.bytes)
            self._by_name[spec.name] = Segment(start, end, spec.lr_group, spec.decay, spec.name)
        self.segments = self.segments_without(frozenset())
        self._use(zeros(end, dtype=dtype.storage))

    def _use(self, flat: Array) -> None:
        """Hold the values in this buffer."""
        self.flat = flat
        self.tensors: dict[str, Array] = {}
        for spec in self.table:
            start = self._by_name[spec.name].start
            self.tensors[spec.name] = flat[start : start + spec.size].reshape(spec.shape)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "tensors"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._use(zeros(self.flat.size, dtype=self.flat.dtype))  # aligned, which a copied array is not
        np.copyto(self.flat, state["flat"])

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]

    def start_of(self, name: str) -> int:
        """Return the position of the first value of a tensor in the buffer."""
        return self._by_name[name].start

    def segments_without(self, names: frozenset[str]) -> tuple[Segment, ...]:
        """Return the segments of all tensors but those with these names."""
        segments: list[Segment] = []
        for name, part in self._by_name.items():
            if name in names:
                continue
            group = (part.start, part.lr_group, part.decay)
            before = segments[-1] if segments else None
            if before is not None and (before.stop, before.lr_group, before.decay) == group:
                segments[-1] = before._replace(stop=part.stop)
            else:
                segments.append(part)
        return tuple(segments)

    def values_of(self, segment: Segment) -> Array:
        """Return the values of a segment of a buffer of all parameters; this one may lack parameters outside of it."""
        start = self.start_of(segment.first)
        return self.flat[start : start + segment.stop - segment.start]

    def copy(self) -> Parameters:
        """Return the same values in a new buffer."""
        twin = Parameters(self.shape, names=self.tensors)
        twin.copy_from(self)
        return twin

    def copy_from(self, other: Parameters) -> None:
        """Overwrite all values with those of `other`, which must have the same shape."""
        np.copyto(self.flat, other.flat)


def initial_parameters(shape: ModelShape, seed: int, projections: Projections = "scaled") -> Parameters:
    """Return GPT-2's initial values (Radford et al. 2019), the same for the same seed.

    Weights are normal with standard deviation 0.02, or 0.02 / sqrt(2 L) for the projections that add to the residual
    stream. Biases are 0, norm weights 1.

    Args:
        shape: Shape of the model.
        seed: Random seed.
        projections: "zero" sets those projections to 0 (Goyal et al. 2017; Zhang et al. 2019): at first every block is
            the identity, and the logits are those of a bigram model. The other values are the same.
    """
    parameters = Parameters(shape)
    random = np.random.Generator(np.random.PCG64(seed))
    std = {"normal": INIT_STD, "residual": INIT_STD / math.sqrt(2 * shape.layers)}
    for spec in parameters.table:
        tensor = parameters[spec.name]
        if spec.init in std:
            random.standard_normal(dtype=np.float32, out=tensor)
            tensor *= np.float32(std[spec.init])
            if spec.init == "residual" and projections == "zero":
                tensor.fill(0.0)
        elif spec.init == "ones":
            tensor.fill(1.0)
    return parameters
