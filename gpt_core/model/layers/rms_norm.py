"""RMS normalization (Zhang and Sennrich 2019): y = x / sqrt(mean(x²) + 1e-6) * weight, per row.

Unlike layer norm it subtracts no mean and has no bias: less work, and about the same losses.
"""

from __future__ import annotations

from gpt_core.kernels import rms_norm
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.layer import Layer, ParameterSpec, Tensors
from gpt_core.model.precision import PRECISION


class RMSNorm(Layer):
    """RMS norm over the C channels of each row.

    Its output is scratch that all norms share, computed again in the backward pass, as that of `LayerNorm`.
    """

    weight: Array
    bias = None
    rstd: Array
    """(N,) 1 / root mean square of each row"""
    ln_out: Activations
    """(N, C)"""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.weight_name = f"{name}.weight"
        self._channels = channels

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """Return the scale per channel, which does not decay."""
        return (ParameterSpec(self.weight_name, (self._channels,), "ones", "norm", False),)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the statistics, saved, and the output, shared."""
        return (
            Buffer("rstd", (size.rows,), dtype=PRECISION.compute),
            Buffer("ln_out", (size.rows, self._channels), "scratch", dtype=self.activation_type()),
        )

    def bind(self, weights: Tensors) -> None:
        """Use these weights."""
        self.weight = weights[self.weight_name]

    def forward(self, x: Array) -> Activations:
        """Normalize x (N, C); return the output, which is valid until another norm runs."""
        self.normalize(self.ln_out, x, self.rstd)
        return self.ln_out

    def normalize(self, y: Activations, x: Array, rstd: Array, _mean: Array | None = None) -> None:
        """Write the normalized x to `y`, both (N, C), and the statistic of its rows to `rstd`, (N,)."""
        # y = x * rstd * weight
        rms_norm.forward(y, rstd, x, self.weight)

    def backward(self, d_x: Array, d_ln_out: Array, x: Array, gradients: Tensors) -> None:
        """Add the gradient of the input to `d_x`, and that of the weight to `gradients`."""
        # n = x * rstd;  d_n = d_ln_out * weight
        # d_x += (d_n - n * mean(d_n * n)) * rstd;  d_weight += sum(d_ln_out * n)
        rms_norm.backward(d_x, gradients[self.weight_name], d_ln_out, x, self.rstd, self.weight)
