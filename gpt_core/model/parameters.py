"""The one table of parameters, and the flat buffer that holds their values.

Names and layouts are GPT-2's, as Hugging Face's `GPT2LMHeadModel` has them: a linear weight is (in, out), `c_attn`
holds the columns of query, key and value side by side, and `wte` is both the token embedding and the unembedding.

Sizes, initial values, learning-rate groups, weight decay, checkpoint keys and the parameter count derive from it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape
from gpt_core.kernels.arrays import ALIGNMENT, zeros

Init = Literal["normal", "residual", "zeros", "ones"]
LrGroup = Literal["attn", "mlp", "norm", "pos", "unembed"]

INIT_STD = 0.02


class ParameterSpec(NamedTuple):
    """One tensor: where it starts is decided by `Parameters`, everything else here."""

    name: str
    shape: tuple[int, ...]
    init: Init
    lr_group: LrGroup
    decay: bool

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def parameter_table(shape: ModelShape) -> tuple[ParameterSpec, ...]:
    """Every parameter of a model of this shape, in the order in which the forward pass meets them."""
    C, F = shape.d_model, shape.hidden_size

    def norm(name: str) -> list[ParameterSpec]:
        return [
            ParameterSpec(f"{name}.weight", (C,), "ones", "norm", False),
            ParameterSpec(f"{name}.bias", (C,), "zeros", "norm", False),
        ]

    def linear(name: str, inputs: int, outputs: int, init: Init, group: LrGroup) -> list[ParameterSpec]:
        return [
            ParameterSpec(f"{name}.weight", (inputs, outputs), init, group, True),
            ParameterSpec(f"{name}.bias", (outputs,), "zeros", group, False),
        ]

    table = [
        ParameterSpec("wte.weight", (shape.vocab_size, C), "normal", "unembed", True),
        ParameterSpec("wpe.weight", (shape.seq_len, C), "normal", "pos", False),
    ]
    for layer in range(shape.layers):
        block = f"h.{layer}"
        table += norm(f"{block}.ln_1")
        table += linear(f"{block}.attn.c_attn", C, 3 * C, "normal", "attn")
        table += linear(f"{block}.attn.c_proj", C, C, "residual", "attn")
        table += norm(f"{block}.ln_2")
        table += linear(f"{block}.mlp.c_fc", C, F, "normal", "mlp")
        table += linear(f"{block}.mlp.c_proj", F, C, "residual", "mlp")
    table += norm("ln_f")
    return tuple(table)


def parameter_count(shape: ModelShape) -> int:
    """Number of values in the table."""
    return sum(spec.size for spec in parameter_table(shape))


class Segment(NamedTuple):
    """A stretch of the flat buffer whose tensors share their learning-rate group and their decay."""

    start: int
    stop: int
    lr_group: LrGroup
    decay: bool


class Parameters:
    """One value for each parameter of a shape: weights, gradients or optimizer moments.

    `flat` is one aligned float32 buffer; `tensors` maps each name to its view of it. Tensors that share a learning rate
    and a decay lie side by side (`segments`), so that the optimizer makes one pass over each stretch.
    """

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape
        self.table = parameter_table(shape)
        by_segment = sorted(self.table, key=lambda spec: (spec.lr_group, not spec.decay))
        starts: dict[str, int] = {}
        segments: list[Segment] = []
        end = 0
        for spec in by_segment:
            starts[spec.name] = end
            end += _padded(spec.size)
            if segments and segments[-1][2:] == (spec.lr_group, spec.decay):
                segments[-1] = segments[-1]._replace(stop=end)
            else:
                segments.append(Segment(starts[spec.name], end, spec.lr_group, spec.decay))
        self.segments = tuple(segments)
        self.flat = zeros(end)
        self.tensors: dict[str, NDArray[np.float32]] = {
            spec.name: self.flat[starts[spec.name] : starts[spec.name] + spec.size].reshape(spec.shape)
            for spec in self.table
        }

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.tensors[name]

    def copy(self) -> Parameters:
        """The same values in a buffer of their own."""
        twin = Parameters(self.shape)
        twin.copy_from(self)
        return twin

    def copy_from(self, other: Parameters) -> None:
        """Takes over the values of `other`, which must have the same shape."""
        np.copyto(self.flat, other.flat)


def initial_parameters(shape: ModelShape, seed: int) -> Parameters:
    """GPT-2's initial values (Radford et al. 2019): normal with standard deviation 0.02, and 0.02 / sqrt(2 L) for the
    projections that add to the residual stream; the same for the same seed.
    """
    parameters = Parameters(shape)
    random = np.random.Generator(np.random.PCG64(seed))
    scale = {"normal": INIT_STD, "residual": INIT_STD / math.sqrt(2 * shape.layers)}
    for spec in parameters.table:
        tensor = parameters[spec.name]
        if spec.init in scale:
            random.standard_normal(dtype=np.float32, out=tensor)
            tensor *= np.float32(scale[spec.init])
        elif spec.init == "ones":
            tensor.fill(1.0)
    return parameters


def _padded(size: int) -> int:
    values_per_line = ALIGNMENT // 4
    return -(-size // values_per_line) * values_per_line
