"""QK-norm: RMS norm of the queries and of the keys of each head (Henry et al. 2020; Dehghani et al. 2023).

    q = q / sqrt(mean(q²) + 1e-6) * w_q;  k = k / sqrt(mean(k²) + 1e-6) * w_k

over the D channels of a head, with w_q and w_k (D,) of all heads of a layer, as in Qwen3. It bounds the scores, so
that larger learning rates are stable.
"""

from __future__ import annotations

from gpt_core.kernels import rms_norm
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.layer import Layer, ParameterSpec, Tensors


class QKNorm(Layer):
    """The norms q_norm and k_norm. It has no buffers: inputs and outputs belong to attention."""

    q_weight: Array
    k_weight: Array

    def __init__(self, name: str, head_size: int) -> None:
        super().__init__()
        self.q_name, self.k_name = f"{name}.q_norm.weight", f"{name}.k_norm.weight"
        self._head_size = head_size

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """Return both scales, which do not decay."""
        return tuple(
            ParameterSpec(name, (self._head_size,), "ones", "norm", False) for name in (self.q_name, self.k_name)
        )

    def bind(self, weights: Tensors) -> None:
        """Use these weights."""
        self.q_weight, self.k_weight = weights[self.q_name], weights[self.k_name]

    def forward(self, qk: Activations, rstd: Array, qkv: Activations) -> None:
        """Write the normalized queries and keys of qkv (N, 3 C) to qk (N, 2 C), with `rstd` (N, 2 H) of each head."""
        # q = q * rstd * w_q;  k = k * rstd * w_k
        rms_norm.heads_forward(qk, rstd, qkv, self.q_weight, self.k_weight)

    def backward(
        self, d_qkv: Activations, d_qk: Activations, qkv: Activations, rstd: Array, gradients: Tensors
    ) -> None:
        """Write the gradients of queries and keys to d_qkv (N, 3 C); add those of the weights to `gradients`."""
        # n = q * rstd;  d_n = d_q * w_q;  d_q = (d_n - n * mean(d_n * n)) * rstd;  d_w_q += sum(d_q * n);  k likewise
        rms_norm.heads_backward(
            d_qkv, gradients[self.q_name], gradients[self.k_name], d_qk, qkv, rstd, self.q_weight, self.k_weight
        )
