"""Layer normalization (Ba et al. 2016): y = (x - mean) / sqrt(variance + 1e-5) * weight + bias, per row.

A model without biases (`bias`) has none here, either.
"""

from __future__ import annotations

from gpt_core.kernels import layer_norm
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.layer import Layer, ParameterSpec, Tensors
from gpt_core.model.precision import PRECISION


class LayerNorm(Layer):
    """Layer norm over the C channels of each row.

    Its output is scratch that all norms share. The backward pass runs `forward` again, which is cheaper than saving it.
    """

    weight: Array
    bias: Array | None
    mean: Array
    """(N,) of each row"""
    rstd: Array
    """(N,) 1 / standard deviation of each row"""
    ln_out: Activations
    """(N, C)"""

    def __init__(self, name: str, channels: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.weight_name, self.bias_name = f"{name}.weight", f"{name}.bias"
        self._channels, self._has_bias = channels, has_bias

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """Scale and shift per channel; neither decays."""
        weight = ParameterSpec(self.weight_name, (self._channels,), "ones", "norm", False)
        if not self._has_bias:
            return (weight,)
        return weight, ParameterSpec(self.bias_name, (self._channels,), "zeros", "norm", False)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the statistics, saved, and the output, shared."""
        return (
            Buffer("mean", (size.rows,), dtype=PRECISION.compute),
            Buffer("rstd", (size.rows,), dtype=PRECISION.compute),
            Buffer("ln_out", (size.rows, self._channels), "scratch", dtype=self.activation_type()),
        )

    def bind(self, weights: Tensors) -> None:
        """Use these weights."""
        self.weight, self.bias = weights[self.weight_name], weights.get(self.bias_name)

    def forward(self, x: Array) -> Activations:
        """Normalize x (N, C); return the output, which is valid until another norm runs."""
        self.normalize(self.ln_out, x, self.rstd, self.mean)
        return self.ln_out

    def normalize(self, y: Activations, x: Array, rstd: Array, mean: Array) -> None:
        """Write the normalized x to `y`, both (N, C), and the statistics of its rows to `rstd` and `mean`, (N,)."""
        # y = (x - mean) * rstd * weight + bias
        layer_norm.forward(y, mean, rstd, x, self.weight, self.bias)

    def backward(self, d_x: Array, d_ln_out: Array, x: Array, gradients: Tensors) -> None:
        """Add the gradient of the input to `d_x`, and those of the parameters to `gradients`."""
        # n = (x - mean) * rstd;  d_n = d_ln_out * weight
        # d_x += (d_n - mean(d_n) - n * mean(d_n * n)) * rstd;  d_weight += sum(d_ln_out * n);  d_bias += sum(d_ln_out)
        layer_norm.backward(
            d_x,
            gradients[self.weight_name],
            gradients.get(self.bias_name),
            d_ln_out,
            x,
            self.mean,
            self.rstd,
            self.weight,
        )
