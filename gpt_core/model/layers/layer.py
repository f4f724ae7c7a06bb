"""Base class of the layers, and how a layer declares its parameters and its arithmetic.

A layer is used in four steps: construct it (configuration alone, no memory), `bind` weights, `allocate` buffers for a
batch shape, then run `forward` and `backward`, which write to these buffers and allocate nothing. `multiply_in` chooses
the number format of the matrix products, `drop` the dropout of a pass.

The legend of shapes is in `gpt_core.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels import gemm
from gpt_core.kernels.arrays import Array
from gpt_core.model.layers.buffers import BatchShape, Buffer, BufferPool, Use
from gpt_core.model.layers.dropout import Dropout
from gpt_core.model.precision import BFLOAT16, PRECISION, DType, ProductFormat

Ids = NDArray[np.int32]
Tensors = Mapping[str, Array]
"""Parameters or gradients by name."""

Init = Literal["normal", "residual", "zeros", "ones"]
LrGroup = Literal["attn", "mlp", "norm", "pos", "unembed"]


class ParameterSpec(NamedTuple):
    """One parameter tensor: its row of the parameter table."""

    name: str
    shape: tuple[int, ...]
    init: Init
    lr_group: LrGroup
    decay: bool
    parts: int = 1
    """linear maps that a matrix holds, as equally wide ranges of its columns"""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class Flops(NamedTuple):
    """Floating-point operations of matrix products, by where they are made.

    A product of (M, K) by (K, N) has 2 M K N: one multiplication and one addition per term.
    """

    attention_linears: int = 0
    """c_attn and c_proj of the attention"""
    attention_scores: int = 0
    """q kᵀ and P v"""
    mlp_linears: int = 0
    """c_fc and c_proj of the MLP"""
    logits: int = 0
    """ln_f's output times the transposed matrix of the head"""

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(self)

    @classmethod
    def sum_of(cls, parts: Iterable[Flops]) -> Flops:
        """Return the sum of `parts`, category by category."""
        return cls(*(sum(counts) for counts in zip(cls(), *parts, strict=True)))

    def times(self, factor: int) -> Flops:
        """Return every category multiplied by `factor`."""
        return Flops(*(factor * count for count in self))


class Layer:
    """Part of the model; may consist of `sublayers`.

    Subclasses declare what is their own (`own_parameters`, `own_buffers`, `own_forward_flops`). Sublayers add theirs,
    in the order in which the forward pass runs them.
    """

    bfloat16 = False
    """True if the operands of matrix products are rounded to bfloat16, and stored in it where they can be"""
    dropout: Dropout | None = None
    """of the passes from now on; None in evaluation"""
    is_trained = True
    """False if all parameters of the layer and its sublayers are frozen: their gradients are not needed"""

    def __init__(self, *sublayers: Layer) -> None:
        self.sublayers = sublayers

    def activation_type(self, depth: int = 1) -> DType:
        """Return the number format of a buffer between products, of which one over `depth` values may write it."""
        return BFLOAT16 if self.bfloat16 and gemm.stores_bfloat16(depth) else PRECISION.activations

    # ---- declarations, overridden by subclasses

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """Return the parameters of this layer without those of its sublayers."""
        return ()

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the buffers of this layer without those of its sublayers."""
        return ()

    def own_forward_flops(self, size: BatchShape, outputs: int) -> Flops:
        """Return the FLOPs of this layer's forward pass without those of its sublayers; see `forward_flops`."""
        return Flops()

    # ---- with all sublayers

    def parameter_specs(self) -> Iterator[ParameterSpec]:
        """Yield the rows of the parameter table."""
        yield from self.own_parameters()
        for layer in self.sublayers:
            yield from layer.parameter_specs()

    def buffers(self, size: BatchShape) -> Iterator[Buffer]:
        """Yield the buffers of a forward and backward pass over a batch of this size."""
        yield from self.own_buffers(size)
        for layer in self.sublayers:
            yield from layer.buffers(size)

    def forward_flops(self, size: BatchShape, outputs: int | None = None) -> Flops:
        """Return the FLOPs of a forward pass.

        Args:
            size: The batch.
            outputs: Number of last positions per sequence whose outputs are needed; by default all.
        """
        needed = size.time if outputs is None else outputs
        own = self.own_forward_flops(size, needed)
        return Flops.sum_of([own, *(layer.forward_flops(size, needed) for layer in self.sublayers)])

    def multiply_in(self, products: ProductFormat) -> None:
        """Choose the number format of the operands of matrix products, before buffers are allocated; else float32."""
        self.bfloat16 = products == "bfloat16"
        for layer in self.sublayers:
            layer.multiply_in(products)

    def drop(self, dropout: Dropout | None) -> None:
        """Choose the dropout of the next passes; none unless this is called."""
        self.dropout = dropout
        for layer in self.sublayers:
            layer.drop(dropout)

    def freeze(self, names: Set[str]) -> None:
        """Choose the parameters whose gradients are not needed, by name; none unless this is called."""
        self.is_trained = any(spec.name not in names for spec in self.parameter_specs())
        for layer in self.sublayers:
            layer.freeze(names)

    def bind(self, weights: Tensors) -> None:
        """Use these weights, which are read and never copied."""
        for layer in self.sublayers:
            layer.bind(weights)

    def allocate(self, size: BatchShape, uses: frozenset[Use], pool: BufferPool) -> None:
        """Set the buffers with one of these uses as attributes."""
        for buffer in self.own_buffers(size):
            if buffer.use in uses:
                setattr(self, buffer.name, pool.take(buffer))
        for layer in self.sublayers:
            layer.allocate(size, uses, pool)
