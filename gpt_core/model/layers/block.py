"""Transformer block with pre-normalization: attention and MLP, each added to the residual stream.

The settings choose its layers: either norm, and the activation of the MLP.
"""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.kernels.arrays import Array
from gpt_core.model.layers.attention import CausalSelfAttention
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.layer import Layer, Tensors
from gpt_core.model.layers.mlp import MLP
from gpt_core.model.layers.norm import LayerNorm
from gpt_core.model.layers.rms_norm import RMSNorm
from gpt_core.model.layers.x0_shortcut import X0Shortcut


def norm_layer(shape: ModelShape, name: str) -> LayerNorm | RMSNorm:
    """Return the norm that the settings choose."""
    if shape.norm == "rms_norm":
        return RMSNorm(name, shape.d_model)
    return LayerNorm(name, shape.d_model, has_bias=shape.bias)


class Block(Layer):
    """x + attn(ln_1(x)), then the sum + mlp(ln_2(the sum)).

    With `x0_shortcut`, x of a block after the first is x + s x0.
    """

    resid_mid: Array
    """(N, C): residual stream between attention and MLP"""
    out: Array
    """(N, C): residual stream after the block, the input of the next"""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        name = f"h.{layer}"
        self._shape = shape
        self.x0_shortcut = X0Shortcut(shape, name) if shape.x0_shortcut and layer else None
        self.ln_1 = norm_layer(shape, f"{name}.ln_1")
        self.attn = CausalSelfAttention(shape, f"{name}.attn", layer)
        self.ln_2 = norm_layer(shape, f"{name}.ln_2")
        self.mlp = MLP(shape, f"{name}.mlp", layer)
        shortcuts = () if self.x0_shortcut is None else (self.x0_shortcut,)
        super().__init__(*shortcuts, self.ln_1, self.attn, self.ln_2, self.mlp)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the residual stream after each half, 2 N C values."""
        residual = (size.rows, self._shape.d_model)
        return Buffer("resid_mid", residual), Buffer("out", residual)

    def forward(self, x: Array, x0: Array) -> Array:
        """Return the residual stream after the block for that before it, x, and its start, x0; all (N, C)."""
        if self.x0_shortcut:
            x = self.x0_shortcut.forward(x, x0)
        # resid_mid = x + attn(ln_1(x))
        self.attn.forward(self.resid_mid, self.ln_1.forward(x), x)
        # out = resid_mid + mlp(ln_2(resid_mid))
        self.mlp.forward(self.out, self.ln_2.forward(self.resid_mid), self.resid_mid)
        return self.out

    def input_of(self, x: Array) -> Array:
        """Return the input of the branches in the last pass, for the residual stream before the block."""
        return self.x0_shortcut.out if self.x0_shortcut else x

    def backward(self, d_residual: Array, x: Array, gradients: Tensors) -> None:
        """Replace the gradient of the output, in `d_residual`, by that of the input of the branches.

        The sum passes a gradient on unchanged; each branch adds its own to it.
        """
        x = self.input_of(x)
        # d_resid_mid = d_out + d_ln_2(d_mlp(d_out))
        d_ln_out = self.mlp.backward(d_residual, self.ln_2.forward(self.resid_mid), gradients)
        self.ln_2.backward(d_residual, d_ln_out, self.resid_mid, gradients)
        # d_x = d_resid_mid + d_ln_1(d_attn(d_resid_mid))
        d_ln_out = self.attn.backward(d_residual, self.ln_1.forward(x), gradients)
        self.ln_1.backward(d_residual, d_ln_out, x, gradients)
