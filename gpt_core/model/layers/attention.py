"""Causal multi-head self-attention (Vaswani et al. 2017).

For each head, with q, k and v of D = C / H channels:

    [q k v] = x W_attn + b_attn
    q, k = rotated(normalized(q)), rotated(normalized(k))    with `qk_norm`, and with `positions` rope
    P = softmax(q kᵀ / sqrt(D)), over the keys up to the query's position
    y = (P v) W_proj + b_proj

The kernel computes P in tiles and never stores it (FlashAttention, Dao et al. 2022). For the backward pass it saves one
number per query, lse = log(sum(exp(scores))), from which P is computed again.

In training with dropout, P and the output are multiplied by M of `gpt_core.model.layers.dropout`.
"""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import attention
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.buffers import BatchShape, Buffer, BufferPool, Use
from gpt_core.model.layers.dropout import attention_place, branch_places
from gpt_core.model.layers.layer import Flops, Layer, Tensors
from gpt_core.model.layers.linear import Linear
from gpt_core.model.layers.projection import Projection
from gpt_core.model.layers.qk_norm import QKNorm
from gpt_core.model.layers.rotary import RotaryEmbedding
from gpt_core.model.precision import PRECISION


class CausalSelfAttention(Layer):
    """c_attn, attention of each head to itself and earlier positions, c_proj."""

    qkv: Activations
    """(N, 3 C): queries, keys and values side by side"""
    qk: Activations
    """(N, 2 C): queries and keys as they are multiplied; without `qk_norm` it is `qkv`, of which they are a part. `q`,
    `k` and `v` are views (B, T, C) of it and of `qkv`"""
    qk_rstd: Array
    """(N, 2 H): statistics of `qk_norm`"""
    lse: Array
    """(B, H, T): log-sum-exp of each query's scores"""
    attn_out: Activations
    """(N, C): P v of all heads side by side"""
    workspace: Array
    """per thread: keys and values of a head, and a tile of its scores"""
    d_qkv: Activations
    """(N, 3 C)"""
    d_qk: Activations
    """(N, 2 C); without `qk_norm` it is `d_qkv`"""
    d_branch: Array
    """(N, C): gradient of the output before it was dropped"""
    d_attn_out: Activations
    """(N, C)"""
    d_x: Array
    """(N, C): gradient of the input"""

    def __init__(self, shape: ModelShape, name: str, layer: int) -> None:
        C = shape.d_model
        self._shape = shape
        self.c_attn = Linear(f"{name}.c_attn", C, 3 * C, "normal", "attn", has_bias=shape.bias, parts=3)
        self.qk_norm = QKNorm(name, shape.head_size) if shape.qk_norm else None
        self.rotary = RotaryEmbedding(shape) if shape.positions == "rope" else None
        self.c_proj = Projection(f"{name}.c_proj", C, C, "attn", branch_places(layer)[0], has_bias=shape.bias)
        self._place = attention_place(layer)
        layers = (self.c_attn, self.qk_norm, self.rotary, self.c_proj)
        super().__init__(*(layer for layer in layers if layer is not None))

    # ---- memory

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the saved activations: 4 N C + B H T values, with `qk_norm` 6 N C; and what the layers share."""
        N, C = size.rows, self._shape.d_model
        workspace = attention.workspace_size(size.time, self._shape.head_size)
        dtype = self.activation_type(C)
        normalized = (
            Buffer("qk", (N, 2 * C), dtype=dtype),
            Buffer("qk_rstd", (N, 2 * self._shape.num_heads), dtype=PRECISION.compute),
            Buffer("d_qk", (N, 2 * C), "gradient", dtype=dtype),
        )
        return (
            Buffer("qkv", (N, 3 * C), dtype=dtype),
            *(normalized if self.qk_norm else ()),
            Buffer("lse", (size.batch, self._shape.num_heads, size.time), dtype=PRECISION.compute),
            Buffer("attn_out", (N, C), dtype=dtype),
            Buffer("workspace", (size.threads, workspace), "scratch", dtype=PRECISION.compute),
            # d_branch is no longer needed when d_qkv is written
            Buffer("d_qkv", (N, 3 * C), "gradient", "d_inner", dtype),
            Buffer("d_branch", (N, C), "gradient", "d_inner"),
            # d_attn_out is no longer needed when d_x is written
            Buffer("d_attn_out", (N, C), "gradient", "d_branch", dtype),
            Buffer("d_x", (N, C), "gradient", "d_branch"),
        )

    def allocate(self, size: BatchShape, uses: frozenset[Use], pool: BufferPool) -> None:
        """Set the buffers with one of these uses, and the views of them that the kernel takes."""
        super().allocate(size, uses, pool)
        C, self._time = self._shape.d_model, size.time

        def by_batch(rows: Activations) -> Activations:
            return rows.reshape(size.batch, size.time, -1)

        def split(qk: Activations, qkv: Activations) -> tuple[Activations, Activations, Activations]:
            return by_batch(qk)[..., :C], by_batch(qk)[..., C : 2 * C], by_batch(qkv)[..., 2 * C :]

        if "saved" in uses:
            if not self.qk_norm:
                self.qk = self.qkv
            self.q, self.k, self.v = split(self.qk, self.qkv)
            self._attn_out = by_batch(self.attn_out)
        if "gradient" in uses:
            if not self.qk_norm:
                self.d_qk = self.d_qkv
            self._d_q, self._d_k, self._d_v = split(self.d_qk, self.d_qkv)
            self._d_attn_out = by_batch(self.d_attn_out)

    def kv_cache_size(self, positions: int) -> int:
        """Return the number of values of a cache of the keys and values of `positions` tokens: 2 T C."""
        return 2 * positions * self._shape.d_model

    # ---- cost

    def own_forward_flops(self, size: BatchShape, outputs: int) -> Flops:
        """Return the FLOPs of the forward pass: 8 N C² in the linear layers and 2 B C T (T + 1) in the scores.

        Each pair of a query and a key that it sees costs 2 C for q kᵀ and 2 C for P v. A sequence has T (T + 1) / 2
        pairs; pairs that the causal mask hides do not count.
        """
        keys_only = size.time - outputs  # positions without a query
        pairs = (size.time * (size.time + 1) - keys_only * (keys_only + 1)) // 2
        return Flops(
            attention_linears=self.c_attn.flops(size.rows) + self.c_proj.flops(size.batch * outputs),
            attention_scores=4 * self._shape.d_model * size.batch * pairs,
        )

    # ---- passes

    def forward(self, y: Array, x: Activations, residual: Array) -> None:
        """Write residual + attention(x) to `y`; all (N, C)."""
        # qkv = x W_attn + b_attn
        self.c_attn.forward(self.qkv, x)
        if self.qk_norm:
            self.qk_norm.forward(self.qk, self.qk_rstd, self.qkv)
        if self.rotary:
            self.rotary.forward(self.qk, self._time)
        # attn_out = (M * softmax(q kᵀ / sqrt(D))) v;  lse = log(sum(exp(q kᵀ / sqrt(D))))
        attention.forward(
            self._attn_out, self.lse, self.q, self.k, self.v, self.workspace, self.bfloat16, *self._dropout_of_scores()
        )
        # y = M * (attn_out W_proj + b_proj) + residual
        self.c_proj.add_to(y, self.attn_out, residual)

    def backward(self, d_y: Array, x: Activations, gradients: Tensors) -> Array:
        """Return the gradient of `x` for the gradient `d_y` of the output; add those of the parameters."""
        # d_attn_out = (M * d_y) W_projᵀ
        d_branch = self.c_proj.branch_gradient(d_y, self.d_branch)
        self.c_proj.backward(self.d_attn_out, d_branch, self.attn_out, gradients)
        # P = exp(q kᵀ / sqrt(D) - lse);  d_v = (M * P)ᵀ d_attn_out;  d_P = M * (d_attn_out vᵀ)
        # d_S = P * (d_P - sum(d_attn_out * attn_out));  d_q = d_S k / sqrt(D);  d_k = d_Sᵀ q / sqrt(D)
        attention.backward(
            self._d_q, self._d_k, self._d_v, self._d_attn_out, self._attn_out, self.lse,
            self.q, self.k, self.v, self.workspace, self.bfloat16, *self._dropout_of_scores(),
        )  # fmt: skip
        if self.rotary:
            self.rotary.backward(self.d_qk, self._time)
        if self.qk_norm:
            self.qk_norm.backward(self.d_qkv, self.d_qk, self.qkv, self.qk_rstd, gradients)
        # d_x = d_qkv W_attnᵀ
        self.c_attn.backward(self.d_x, self.d_qkv, x, gradients)
        return self.d_x

    def _dropout_of_scores(self) -> tuple[float, int, int]:
        """Return rate, key and first sequence of the dropout of P; rate 0 for none."""
        drop = self.dropout
        return (0.0, 0, 0) if drop is None else (drop.rate, drop.key(self._place), drop.first_sequence)
