"""Linear layer: y = x W + b, or without b, with the weight stored as (in, out), as in GPT-2's `Conv1D`."""

from __future__ import annotations

from gpt_core.kernels import linear
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.layer import Init, Layer, LrGroup, ParameterSpec, Tensors


class Linear(Layer):
    """y (N, out) = x (N, in) W (in, out) + b (out,).

    It has no buffers: inputs and outputs belong to the layer that contains it.
    """

    weight: Array
    bias: Array | None

    def __init__(
        self, name: str, in_features: int, out_features: int, init: Init, lr_group: LrGroup,
        *, has_bias: bool = True, parts: int = 1,
    ) -> None:  # fmt: skip
        """Create the layer.

        Args:
            name: Name before `.weight` and `.bias`.
            in_features: Channels of the input.
            out_features: Channels of the output.
            init: Initial values of W.
            lr_group: Learning rate.
            has_bias: False for a layer without b.
            parts: Linear maps whose outputs are side by side.
        """
        super().__init__()
        self.weight_name, self.bias_name = f"{name}.weight", f"{name}.bias"
        self.in_features, self.out_features = in_features, out_features
        self._init: Init = init
        self._lr_group: LrGroup = lr_group
        self._has_bias, self._parts = has_bias, parts

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """W decays, b does not."""
        size = (self.in_features, self.out_features)
        weight = ParameterSpec(self.weight_name, size, self._init, self._lr_group, True, self._parts)
        if not self._has_bias:
            return (weight,)
        return weight, ParameterSpec(self.bias_name, (self.out_features,), "zeros", self._lr_group, False)

    def bind(self, weights: Tensors) -> None:
        """Use these weights."""
        self.weight, self.bias = weights[self.weight_name], weights.get(self.bias_name)

    def forward(self, y: Activations, x: Activations, residual: Array | None = None) -> None:
        """Write x W + b to `y`, plus `residual` if given."""
        # y = x W + b + residual
        linear.forward(y, x, self.weight, self.bias, residual, bfloat16=self.bfloat16)

    def backward(self, d_x: Activations, d_y: Activations, x: Activations, gradients: Tensors) -> None:
        """Write the gradient of the input to `d_x`; add those of the parameters to `gradients`."""
        # d_x = d_y Wᵀ;  d_W += xᵀ d_y;  d_b += sum of the rows of d_y
        d_weight, d_bias = gradients[self.weight_name], gradients.get(self.bias_name)
        linear.backward(d_x, d_weight, d_bias, d_y, x, self.weight, bfloat16=self.bfloat16)

    def flops(self, rows: int) -> int:
        """Return the FLOPs of the forward pass over `rows` rows: 2 N in out."""
        return 2 * rows * self.in_features * self.out_features
