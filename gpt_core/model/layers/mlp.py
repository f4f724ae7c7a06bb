"""Feed-forward network of a block: y = f(x W_fc + b_fc) W_proj + b_proj.

The setting `mlp` chooses f:

    gelu            GELU in its tanh approximation (Hendrycks and Gimpel 2016)
    relu_squared    max(x, 0)² (So et al. 2021, "Primer")
    swiglu          silu(gate) * up for x = [gate up], with silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants
                    Improve Transformer")

With SwiGLU, W_fc has twice the columns for the same hidden size F. For as many parameters, F is 2/3 as large.

In training with dropout, the output is multiplied by M of `gpt_core.model.layers.dropout`.
"""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import gelu, relu_squared, swiglu
from gpt_core.kernels.arrays import Activations, Array, widened
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.dropout import branch_places
from gpt_core.model.layers.layer import Flops, Layer, Tensors
from gpt_core.model.layers.linear import Linear
from gpt_core.model.layers.projection import Projection

KERNELS = {"gelu": gelu, "relu_squared": relu_squared, "swiglu": swiglu}


class MLP(Layer):
    """c_fc to F hidden units, or to F gates and F hidden units (F' = F or 2 F), f, c_proj back to C channels."""

    hidden: Activations
    """(N, F'): before f; gates and hidden units side by side"""
    act_out: Activations
    """(N, F): after f, computed again in the backward pass"""
    d_act_out: Activations
    """(N, F): gradient after f"""
    d_hidden: Activations
    """(N, F'): gradient before f; without gates it overwrites `d_act_out`"""
    d_branch: Array
    """(N, C): gradient of the output before it was dropped"""
    d_x: Array
    """(N, C): gradient of the input"""

    def __init__(self, shape: ModelShape, name: str, layer: int) -> None:
        C, F = shape.d_model, shape.hidden_size
        self._shape = shape
        self._kernel = KERNELS[shape.mlp]
        parts = 2 if shape.mlp == "swiglu" else 1
        self.c_fc = Linear(f"{name}.c_fc", C, parts * F, "normal", "mlp", has_bias=shape.bias, parts=parts)
        self.c_proj = Projection(f"{name}.c_proj", F, C, "mlp", branch_places(layer)[1], has_bias=shape.bias)
        super().__init__(self.c_fc, self.c_proj)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the saved inputs of f, N F' values, and what the layers share."""
        N, C, F = size.rows, self._shape.d_model, self._shape.hidden_size
        wide, dtype = self.c_fc.out_features, self.activation_type(C)
        return (
            Buffer("hidden", (N, wide), dtype=dtype),
            Buffer("act_out", (N, F), "scratch", dtype=dtype),
            Buffer("d_act_out", (N, F), "gradient", "d_inner" if wide == F else "d_act_out", dtype),
            Buffer("d_hidden", (N, wide), "gradient", "d_inner", dtype),
            # d_branch is no longer needed when d_x is written
            Buffer("d_branch", (N, C), "gradient", "d_branch"),
            Buffer("d_x", (N, C), "gradient", "d_branch"),
        )

    def own_forward_flops(self, size: BatchShape, outputs: int) -> Flops:
        """Return the FLOPs of the forward pass: 4 N C F, or 6 N C F with gates."""
        rows = size.batch * outputs
        return Flops(mlp_linears=self.c_fc.flops(rows) + self.c_proj.flops(rows))

    def forward(self, y: Array, x: Activations, residual: Array) -> None:
        """Write residual + MLP(x) to `y`; all (N, C)."""
        # hidden = x W_fc + b_fc
        self.c_fc.forward(self.hidden, x)
        # y = M * (f(hidden) W_proj + b_proj) + residual
        self.c_proj.add_to(y, self.activated(), residual)

    def activated(self) -> Activations:
        """Return f(hidden) (N, F), which is valid until another MLP runs."""
        self.activate(self.act_out, self.hidden)
        return self.act_out

    def activate(self, y: Activations, hidden: Activations) -> None:
        """Write f(hidden) to `y` (N, F), which without gates may be `hidden` (N, F')."""
        # y = f(hidden)
        self._kernel.forward(y, hidden)

    @property
    def units(self) -> Array:
        """Hidden units, or their gates, before f (N, F); those above 0 fire."""
        return widened(self.hidden[:, : self._shape.hidden_size])

    def backward(self, d_y: Array, x: Activations, gradients: Tensors) -> Array:
        """Return the gradient of `x` for the gradient `d_y` of the output; add those of the parameters."""
        # d_act_out = (M * d_y) W_projᵀ, with act_out computed again: it was not saved
        d_branch = self.c_proj.branch_gradient(d_y, self.d_branch)
        self.c_proj.backward(self.d_act_out, d_branch, self.activated(), gradients)
        # d_hidden = d_act_out * f'(hidden)
        # with gates, d_gate = d_act_out * up * silu'(gate);  d_up = d_act_out * silu(gate)
        self._kernel.backward(self.d_hidden, self.d_act_out, self.hidden)
        # d_x = d_hidden W_fcᵀ
        self.c_fc.backward(self.d_x, self.d_hidden, x, gradients)
        return self.d_x
