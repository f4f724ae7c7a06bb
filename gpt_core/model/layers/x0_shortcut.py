"""x0 shortcut: each block after the first also sees the embedding, times a learned scale.

    x = x + s x0

x is the residual stream before the block, x0 the embedding's output, the start of the stream; s is a number per block,
at first 0, so that the model begins as one without shortcuts (Karpathy 2025, "nanochat"; Jordan et al. 2024,
"modded-nanogpt"). A block can so read the tokens themselves, whatever the blocks below have added.
"""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import shortcut
from gpt_core.kernels.arrays import Array
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.layer import Layer, ParameterSpec, Tensors
from gpt_core.model.precision import PRECISION


class X0Shortcut(Layer):
    """The sum of the residual stream and the scaled embedding."""

    scale: Array
    """s (1,)"""
    out: Array
    """(N, C): the input of the block"""
    row_sums: Array
    """(N,): of the products of d_out and x0"""

    def __init__(self, shape: ModelShape, name: str) -> None:
        super().__init__()
        self._shape = shape
        self.scale_name = f"{name}.x0_scale"

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """Return the scale, which does not decay."""
        return (ParameterSpec(self.scale_name, (1,), "zeros", "norm", False),)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the output, saved, and what the layers share."""
        return (
            Buffer("out", (size.rows, self._shape.d_model)),
            Buffer("row_sums", (size.rows,), "gradient", dtype=PRECISION.compute),
        )

    def bind(self, weights: Tensors) -> None:
        """Use these weights."""
        self.scale = weights[self.scale_name]

    def forward(self, x: Array, x0: Array) -> Array:
        """Return x + s x0 for x and x0 (N, C)."""
        self.add(self.out, x, x0)
        return self.out

    def add(self, y: Array, x: Array, x0: Array) -> None:
        """Write x + s x0 to `y`, which may be x; all (N, C)."""
        # y = x + s x0
        shortcut.forward(y, x, x0, self.scale)

    def backward(self, d_x0: Array, d_out: Array, x0: Array, gradients: Tensors) -> None:
        """Add the gradient of x0 to `d_x0`, and that of the scale to `gradients`; that of x is `d_out` itself."""
        # d_x0 += s d_out;  d_s += sum(d_out * x0)
        shortcut.backward(d_x0, gradients[self.scale_name], self.row_sums, d_out, x0, self.scale)
