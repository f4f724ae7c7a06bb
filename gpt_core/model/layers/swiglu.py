"""Feed-forward network with a gate, SwiGLU (Shazeer 2020, "GLU Variants Improve Transformer").

    [gate up] = x W_fc + b_fc
    y = (silu(gate) * up) W_proj + b_proj, with silu(x) = x / (1 + exp(-x))

W_fc has twice the columns of that of `MLP` for the same hidden size F. For as many parameters, F is 2/3 as large.

In training with dropout, the output is multiplied by M of `gpt_core.model.layers.dropout`.
"""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import swiglu
from gpt_core.kernels.arrays import Array
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.dropout import branch_places
from gpt_core.model.layers.layer import Flops, Layer, Tensors
from gpt_core.model.layers.linear import Linear
from gpt_core.model.layers.projection import Projection


class SwiGLU(Layer):
    """c_fc to F gates and F hidden units, their product, c_proj back to C channels."""

    hidden: Array
    """(N, 2 F): gates and hidden units side by side"""
    act_out: Array
    """(N, F): computed again in the backward pass"""
    d_act_out: Array
    """(N, F)"""
    d_hidden: Array
    """(N, 2 F)"""
    d_branch: Array
    """(N, C): gradient of the output before it was dropped"""
    d_x: Array
    """(N, C): gradient of the input"""

    def __init__(self, shape: ModelShape, name: str, layer: int) -> None:
        C, F = shape.d_model, shape.hidden_size
        self._shape = shape
        self.c_fc = Linear(f"{name}.c_fc", C, 2 * F, "normal", "mlp", has_bias=shape.bias, parts=2)
        self.c_proj = Projection(f"{name}.c_proj", F, C, "mlp", branch_places(layer)[1], has_bias=shape.bias)
        super().__init__(self.c_fc, self.c_proj)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the saved gates and hidden units, 2 N F values, and what the layers share."""
        N, C, F = size.rows, self._shape.d_model, self._shape.hidden_size
        return (
            Buffer("hidden", (N, 2 * F)),
            Buffer("act_out", (N, F), "scratch"),
            Buffer("d_act_out", (N, F), "gradient"),
            Buffer("d_hidden", (N, 2 * F), "gradient", "d_inner"),
            # d_branch is no longer needed when d_x is written
            Buffer("d_branch", (N, C), "gradient", "d_branch"),
            Buffer("d_x", (N, C), "gradient", "d_branch"),
        )

    def own_forward_flops(self, size: BatchShape, outputs: int) -> Flops:
        """Return the FLOPs of the forward pass: 6 N C F."""
        rows = size.batch * outputs
        return Flops(mlp_linears=self.c_fc.flops(rows) + self.c_proj.flops(rows))

    def forward(self, y: Array, x: Array, residual: Array) -> None:
        """Write residual + SwiGLU(x) to `y`; all (N, C)."""
        # hidden = [gate up] = x W_fc + b_fc
        self.c_fc.forward(self.hidden, x)
        # y = M * ((silu(gate) * up) W_proj + b_proj) + residual
        self.c_proj.add_to(y, self.activated(), residual)

    def activated(self) -> Array:
        """Return silu(gate) * up (N, F), which is valid until another MLP runs."""
        self.activate(self.act_out, self.hidden)
        return self.act_out

    def activate(self, y: Array, hidden: Array) -> None:
        """Write silu(gate) * up to `y` (N, F), for gates and hidden units (N, 2 F)."""
        # y = silu(gate) * up
        swiglu.forward(y, hidden)

    @property
    def units(self) -> Array:
        """Gates before the activation (N, F); those above 0 fire."""
        return self.hidden[:, : self._shape.hidden_size]

    def backward(self, d_y: Array, x: Array, gradients: Tensors) -> Array:
        """Return the gradient of `x` for the gradient `d_y` of the output; add those of the parameters."""
        # d_act_out = (M * d_y) W_projᵀ, with act_out computed again: it was not saved
        d_branch = self.c_proj.branch_gradient(d_y, self.d_branch)
        self.c_proj.backward(self.d_act_out, d_branch, self.activated(), gradients)
        # d_gate = d_act_out * up * silu'(gate);  d_up = d_act_out * silu(gate)
        swiglu.backward(self.d_hidden, self.d_act_out, self.hidden)
        # d_x = d_hidden W_fcᵀ
        self.c_fc.backward(self.d_x, self.d_hidden, x, gradients)
        return self.d_x
