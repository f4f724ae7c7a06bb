"""Feed-forward network of a block: y = GELU(x W_fc + b_fc) W_proj + b_proj, with GELU's tanh approximation.

In training with dropout, the output is multiplied by M of `gpt_core.model.layers.dropout`.
"""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import gelu
from gpt_core.kernels.arrays import Array
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.dropout import branch_places
from gpt_core.model.layers.layer import Flops, Layer, Tensors
from gpt_core.model.layers.linear import Linear
from gpt_core.model.layers.projection import Projection


class MLP(Layer):
    """c_fc to F hidden units, GELU (Hendrycks and Gimpel 2016), c_proj back to C channels."""

    hidden: Array
    """(N, F): before GELU"""
    gelu_out: Array
    """(N, F): computed again in the backward pass"""
    d_hidden: Array
    """(N, F): gradient after GELU, then, in place, before it"""
    d_branch: Array
    """(N, C): gradient of the output before it was dropped"""
    d_x: Array
    """(N, C): gradient of the input"""

    def __init__(self, shape: ModelShape, name: str, layer: int) -> None:
        C, F = shape.d_model, shape.hidden_size
        self._shape = shape
        self.c_fc = Linear(f"{name}.c_fc", C, F, "normal", "mlp")
        self.c_proj = Projection(f"{name}.c_proj", F, C, "mlp", branch_places(layer)[1])
        super().__init__(self.c_fc, self.c_proj)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the saved hidden units, N F values, and what the layers share."""
        N, C, F = size.rows, self._shape.d_model, self._shape.hidden_size
        return (
            Buffer("hidden", (N, F)),
            Buffer("gelu_out", (N, F), "scratch"),
            Buffer("d_hidden", (N, F), "gradient", "d_inner"),
            # d_branch is no longer needed when d_x is written
            Buffer("d_branch", (N, C), "gradient", "d_branch"),
            Buffer("d_x", (N, C), "gradient", "d_branch"),
        )

    def own_forward_flops(self, size: BatchShape, outputs: int) -> Flops:
        """Return the FLOPs of the forward pass: 4 N C F."""
        rows = size.batch * outputs
        return Flops(mlp_linears=self.c_fc.flops(rows) + self.c_proj.flops(rows))

    def forward(self, y: Array, x: Array, residual: Array) -> None:
        """Write residual + MLP(x) to `y`; all (N, C)."""
        # hidden = x W_fc + b_fc
        self.c_fc.forward(self.hidden, x)
        # y = M * (GELU(hidden) W_proj + b_proj) + residual
        self.c_proj.add_to(y, self.activated(), residual)

    def activated(self) -> Array:
        """Return GELU of the hidden units (N, F), which is valid until another MLP runs."""
        # gelu_out = GELU(hidden)
        gelu.forward(self.gelu_out, self.hidden)
        return self.gelu_out

    def backward(self, d_y: Array, x: Array, gradients: Tensors) -> Array:
        """Return the gradient of `x` for the gradient `d_y` of the output; add those of the parameters."""
        # d_gelu_out = (M * d_y) W_projᵀ, with gelu_out computed again: it was not saved
        d_branch = self.c_proj.branch_gradient(d_y, self.d_branch)
        self.c_proj.backward(self.d_hidden, d_branch, self.activated(), gradients)
        # d_hidden = d_gelu_out * GELU'(hidden)
        gelu.backward(self.d_hidden, self.d_hidden, self.hidden)
        # d_x = d_hidden W_fcᵀ
        self.c_fc.backward(self.d_x, self.d_hidden, x, gradients)
        return self.d_x
