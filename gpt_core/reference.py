"""The complete model, forward and backward, in NumPy float64: short and readable, but slow.

Tests compare the compiled kernels with these functions, and these functions with central differences
(`gpt_core.gradcheck`).

Shapes: B batch size, T sequence length, C channels, H heads, D head size (C = H D), F hidden size, V vocabulary size,
L layers.

Each forward function is directly above its backward function. A backward function takes `d_y`, the gradient of the loss
with respect to the forward's result, and the forward's inputs. It recomputes what else it needs, and returns the
gradients with respect to those inputs, in their order. `d_<name>` has the shape of `<name>`.

Papers: Vaswani et al. 2017, "Attention Is All You Need" (attention, residual blocks); Radford et al. 2019, "Language
Models are Unsupervised Multitask Learners" (GPT-2: norms before the sublayers, a final norm, learned positions, dropout
of the embedding, of attention and of both branches); Dao et al. 2022, "FlashAttention", and Dao 2023,
"FlashAttention-2" (attention in tiles); Srivastava et al. 2014, "Dropout". Of the layers that settings can choose
instead of GPT-2's: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"; Henry et al. 2020, "Query-Key
Normalization for Transformers"; Su et al. 2021, "RoFormer" (rotary positions); So et al. 2021, "Primer" (squared ReLU);
Shazeer 2020, "GLU Variants Improve Transformer" (SwiGLU); Press and Wolf 2017, "Using the Output Embedding to Improve
Language Models" (tied heads).
"""

# ruff: noqa: E741  (l and O are FlashAttention's symbols)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape

Array = NDArray[np.float64]
Ids = NDArray[np.int32]
Tensors = dict[str, Array]

LAYER_NORM_EPS, RMS_NORM_EPS = 1e-5, 1e-6
ROPE_BASE = 10_000.0
GELU_SCALE, GELU_CUBE = math.sqrt(2.0 / math.pi), 0.044715
NO_TARGET = -1


def parameter_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor, in the model's order, by its name in Hugging Face's `GPT2LMHeadModel`."""
    C, F, D = shape.d_model, shape.hidden_size, shape.head_size
    wide = 2 * F if shape.mlp == "swiglu" else F
    block = {
        "x0_scale": (1,),  # not of the first block
        "ln_1.weight": (C,), "ln_1.bias": (C,),
        "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),  # columns: queries | keys | values
        "attn.q_norm.weight": (D,), "attn.k_norm.weight": (D,),
        "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,), "ln_2.bias": (C,),
        "mlp.c_fc.weight": (C, wide), "mlp.c_fc.bias": (wide,),  # columns of SwiGLU: gates | hidden units
        "mlp.c_proj.weight": (F, C), "mlp.c_proj.bias": (C,),
    }  # fmt: skip
    table: dict[str, tuple[int, ...]] = {
        "wte.weight": (shape.vocab_size, C),  # token embedding and, tied, output projection
        "wpe.weight": (shape.seq_len, C),
        **{f"h.{layer}.{name}": size for layer in range(shape.layers) for name, size in block.items()},
        "ln_f.weight": (C,), "ln_f.bias": (C,),
        "lm_head.weight": (shape.vocab_size, C),
    }  # fmt: skip
    return {name: size for name, size in table.items() if _exists(name, shape)}


def _exists(name: str, shape: ModelShape) -> bool:
    """Return True for the tensors of a model of this shape."""
    part, kind = name.split(".")[-2:]
    if kind == "x0_scale":
        return shape.x0_shortcut and part != "0"
    if kind == "bias" and (not shape.bias or (part.startswith("ln_") and shape.norm == "rms_norm")):
        return False
    exists = {"q_norm": shape.qk_norm, "k_norm": shape.qk_norm, "wpe": shape.positions == "learned",
              "lm_head": not shape.tied_head}  # fmt: skip
    return exists.get(part, True)


def initial_parameters(shape: ModelShape, seed: int, *, zero_projections: bool = False) -> Tensors:
    """Return GPT-2's initial values (Radford et al. 2019): biases 0, norm weights 1, all others normal with std 0.02.

    The two projections into the residual stream have std 0.02 / sqrt(2 L), or are 0 (Zhang et al. 2019, "Fixup").
    """
    random = np.random.default_rng(seed)
    parameters: Tensors = {}
    for name, size in parameter_shapes(shape).items():
        if name.endswith((".bias", "x0_scale")):
            parameters[name] = np.zeros(size)
        elif len(size) == 1:
            parameters[name] = np.ones(size)
        else:
            std = 0.02 / math.sqrt(2 * shape.layers) if name.endswith("c_proj.weight") else 0.02
            is_zero = zero_projections and name.endswith("c_proj.weight")
            parameters[name] = np.zeros(size) if is_zero else random.normal(0.0, std, size)
    return parameters


def embedding_forward(tokens: Ids, token_table: Array, position_table: Array | None) -> Array:
    """x[b, t] = token_table[tokens[b, t]] + position_table[t]; with rotary positions there is no position_table.

    tokens (B, T); token_table (V, C); position_table (>= T, C); x (B, T, C).
    """
    return token_table[tokens] + (0.0 if position_table is None else position_table[: tokens.shape[1]])


def embedding_backward(
    d_x: Array, tokens: Ids, token_table: Array, position_table: Array | None
) -> tuple[Array, Array | None]:
    """Each row of a table receives the sum of the gradients at the positions it was copied to."""
    d_token_table = np.zeros_like(token_table)  # (V, C)
    np.add.at(d_token_table, tokens, d_x)
    if position_table is None:
        return d_token_table, None
    d_position_table = np.zeros_like(position_table)  # (>= T, C)
    d_position_table[: tokens.shape[1]] = d_x.sum(axis=0)
    return d_token_table, d_position_table


def _splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the next output of SplitMix64 for each state (Steele, Lea and Flood 2014)."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def dropout_key(seed: int, step: int, place: int) -> int:
    """Return the key of a mask: 64 bits that depend on seed, step and place in the model."""
    key = np.zeros(1, np.uint64)
    for number in (seed, step, place):
        key = _splitmix64(key ^ np.uint64(number))
    return int(key[0])


def dropout_factors(key: int, first_row: int, rows: int, columns: int, rate: float) -> Array:
    """Return the factors M of `rows` rows: 0 with probability `rate`, else 1 / (1 - rate) (Srivastava et al. 2014).

    Each element is a hash of the key, the number of its row and its column, so that nothing needs to be stored. The key
    of a row is output number `row` of SplitMix64 from the state `key` on; its halves are `low` and `high`.

    Returns M (rows, columns).
    """
    numbers = np.arange(first_row, first_row + rows, dtype=np.uint64)
    row_keys = _splitmix64(np.uint64(key) + numbers * np.uint64(0x9E3779B97F4A7C15))
    low, high = (half.astype(np.uint32)[:, None] for half in (row_keys, row_keys >> np.uint64(32)))  # (rows, 1) each
    x = np.arange(columns, dtype=np.uint32) * np.uint32(0x9E3779B9) + low  # (rows, columns)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD) ^ high
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x735A2D97)
    bits = (x ^ (x >> np.uint32(15))) >> np.uint32(8)  # 24 bits
    return np.where(bits >= int(rate * (1 << 24) + 0.5), 1.0 / (1.0 - rate), 0.0)


class Masks(NamedTuple):
    """Factors of dropout in one pass."""

    embedding: Array
    """(B, T, C)"""
    blocks: list[Tensors]
    """per layer: attention (B, H, T, T), query by key; attn_branch, mlp_branch (B, T, C)"""


def dropout_masks(
    shape: ModelShape, batch: int, time: int, *, rate: float, seed: int, step: int, first_sequence: int = 0
) -> Masks:
    """Return the factors of a pass over sequences (B, T), the first of which is number `first_sequence` of its step.

    The rows of the residual stream count the positions of all sequences. The rows of the attention probabilities count
    the queries of all heads of all sequences. Places: 0 the embedding; of layer l: 3 l + 1 attention, 3 l + 2 its
    branch, 3 l + 3 the branch of the MLP.
    """
    B, T, C, H = batch, time, shape.d_model, shape.num_heads

    def stream(place: int) -> Array:
        key = dropout_key(seed, step, place)
        return dropout_factors(key, first_sequence * T, B * T, C, rate).reshape(B, T, C)

    def attention(place: int) -> Array:
        key = dropout_key(seed, step, place)
        return dropout_factors(key, first_sequence * H * T, B * H * T, T, rate).reshape(B, H, T, T)

    layers = range(shape.layers)
    return Masks(
        stream(0),
        [
            {"attention": attention(3 * l + 1), "attn_branch": stream(3 * l + 2), "mlp_branch": stream(3 * l + 3)}
            for l in layers
        ],
    )


NO_MASKS: Mapping[str, float] = {"attention": 1.0, "attn_branch": 1.0, "mlp_branch": 1.0}
"""Factors of a block without dropout."""


def _normalize(x: Array) -> tuple[Array, Array]:
    centered = x - x.mean(axis=-1, keepdims=True)  # (..., C)
    rstd = 1.0 / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + LAYER_NORM_EPS)  # (..., 1)
    return centered * rstd, rstd


def layer_norm_forward(x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    """y = weight n + bias, with n = (x - mean(x)) / sqrt(variance(x) + eps) over C (Ba et al. 2016). x, y (..., C)."""
    return _normalize(x)[0] * weight + bias


def layer_norm_backward(d_y: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """d_x = rstd (d_n - mean(d_n) - n mean(d_n n)), with d_n = d_y weight.

    The subtracted terms are there because n has mean 0 and variance 1 for every x.
    """
    n, rstd = _normalize(x)  # (..., C), (..., 1)
    d_n = d_y * weight  # (..., C)
    d_x = rstd * (d_n - d_n.mean(axis=-1, keepdims=True) - n * (d_n * n).mean(axis=-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return d_x, (d_y * n).sum(axis=rows), d_y.sum(axis=rows)


def _rstd(x: Array) -> Array:
    return np.asarray(1.0 / np.sqrt((x**2).mean(axis=-1, keepdims=True) + RMS_NORM_EPS))  # (..., 1)


def rms_norm_forward(x: Array, weight: Array) -> Array:
    """y = weight x / sqrt(mean(x^2) + eps) over C (Zhang and Sennrich 2019). x, y (..., C)."""
    return x * _rstd(x) * weight


def rms_norm_backward(d_y: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """d_x = rstd (d_n - n mean(d_n n)), with n = x rstd and d_n = d_y weight.

    The subtracted term is there because n has mean square 1 for every x.
    """
    rstd = _rstd(x)
    n, d_n = x * rstd, d_y * weight  # (..., C) each
    d_x = rstd * (d_n - n * (d_n * n).mean(axis=-1, keepdims=True))
    return d_x, (d_y * n).sum(axis=tuple(range(x.ndim - 1)))


def rope_forward(x: Array, inverse: bool = False) -> Array:
    """Rotate the points (x[i], x[i + D/2]) of position t by the angle t 10000^(-2i / D) (Su et al. 2021).

    x (..., T, D); `inverse` rotates by the opposite angle.
    """
    T, D = x.shape[-2:]
    angles = np.arange(T)[:, None] * ROPE_BASE ** (-np.arange(0, D, 2) / D)  # (T, D/2)
    cos, sin = np.cos(angles), -np.sin(angles) if inverse else np.sin(angles)
    a, b = x[..., : D // 2], x[..., D // 2 :]  # (..., T, D/2) each
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rope_backward(d_y: Array) -> Array:
    """Rotate by the opposite angle, the transpose of the rotation."""
    return rope_forward(d_y, inverse=True)


def linear_forward(x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    """y = x weight + bias. x (..., I), weight (I, O), bias (O,); y (..., O)."""
    return x @ weight + bias


def linear_backward(d_y: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """d_x = d_y weight^T, d_weight = x^T d_y, d_bias = the sum of the rows of d_y."""
    rows_x, rows_d_y = x.reshape(-1, x.shape[-1]), d_y.reshape(-1, d_y.shape[-1])  # (N, I), (N, O)
    return d_y @ weight.T, rows_x.T @ rows_d_y, rows_d_y.sum(axis=0)


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis. The maximum is subtracted first, so that nothing overflows."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _heads(qkv: Array, num_heads: int) -> Array:
    B, T, C3 = qkv.shape
    return qkv.reshape(B, T, 3, num_heads, C3 // 3 // num_heads).transpose(2, 0, 3, 1, 4)  # (3, B, H, T, D)


def _attention_weights(q: Array, k: Array) -> Array:
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, T): query by key
    future = np.triu(np.ones(scores.shape[-2:], dtype=bool), 1)  # (T, T)
    return softmax(np.where(future, -np.inf, scores))  # (B, H, T, T)


def attention_forward(qkv: Array, num_heads: int, mask: Array | float = 1.0) -> Array:
    """y = (mask softmax(q k^T / sqrt(D))) v for each head, over current and past positions (Vaswani et al. 2017).

    qkv (B, T, 3C); mask (B, H, T, T), the factors of dropout; y (B, T, C).
    """
    q, k, v = _heads(qkv, num_heads)  # (B, H, T, D) each
    y = mask * _attention_weights(q, k) @ v  # (B, H, T, D)
    return np.asarray(y.transpose(0, 2, 1, 3).reshape(*qkv.shape[:2], -1))  # (B, T, C)


def attention_backward(d_y: Array, qkv: Array, num_heads: int, mask: Array | float = 1.0) -> Array:
    """Apply d_s = a (d_a - sum_keys(d_a a)), the gradient of a = softmax(s); the rest are matrix products."""
    q, k, v = _heads(qkv, num_heads)  # (B, H, T, D) each
    a = _attention_weights(q, k)  # (B, H, T, T)
    d_heads = d_y.reshape(*qkv.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)  # (B, H, T, D)
    d_a = mask * (d_heads @ v.swapaxes(-1, -2))  # (B, H, T, T)
    d_scores = a * (d_a - (d_a * a).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    d_v = (mask * a).swapaxes(-1, -2) @ d_heads  # (B, H, T, D)
    d_qkv = np.stack([d_scores @ k, d_scores.swapaxes(-1, -2) @ q, d_v])  # (3, B, H, T, D)
    return d_qkv.transpose(1, 3, 0, 2, 4).reshape(qkv.shape)  # (B, T, 3C)


def attention_tiled_forward(
    qkv: Array, num_heads: int, Br: int = 64, Bc: int = 112, mask: Array | None = None
) -> tuple[Array, Array]:
    """`attention_forward` in tiles of Br queries and blocks of Bc keys, as in FlashAttention (Dao et al. 2022).

    No (T, T) array is stored. Each tile keeps, per query, the maximum score so far (m), the sum of exp(score - m) so
    far (l), and the output O so far, not yet divided by l. A block that raises m rescales l and O. The loops, their
    order and the names are those of `gpt_core/kernels/attention.pyx`.

    qkv (B, T, 3C). Returns y (B, T, C) and lse (B, H, T), the logarithm of each query's sum of exponentials.
    """
    q, k, v = _heads(qkv, num_heads)  # (B, H, T, D) each
    T = q.shape[-2]
    y, lse = np.empty_like(q), np.empty(q.shape[:-1])  # (B, H, T, D), (B, H, T)
    for first in range(0, T, Br):
        queries = slice(first, min(first + Br, T))
        O = np.zeros_like(q[..., queries, :])  # (B, H, br, D)
        m = np.full(O.shape[:-1], -np.inf)  # (B, H, br)
        l = np.zeros(O.shape[:-1])  # (B, H, br)
        for keys in _key_blocks(queries, Bc):
            S = _tile_scores(q, k, queries, keys)  # (B, H, br, bc)
            m_new = np.maximum(m, S.max(axis=-1))
            P = np.exp(S - m_new[..., None])
            rescale = np.exp(m - m_new)
            l = rescale * l + P.sum(axis=-1)
            M = 1.0 if mask is None else mask[..., queries, keys]  # (B, H, br, bc)
            O = rescale[..., None] * O + (M * P) @ v[..., keys, :]
            m = m_new
        y[..., queries, :] = O / l[..., None]
        lse[..., queries] = m + np.log(l)
    return np.asarray(y.transpose(0, 2, 1, 3).reshape(*qkv.shape[:2], -1)), lse


def attention_tiled_backward(
    d_y: Array,
    qkv: Array,
    y: Array,
    lse: Array,
    num_heads: int,
    Br: int = 64,
    Bc: int = 112,
    mask: Array | None = None,
) -> Array:
    """`attention_backward` in tiles, from y and lse of `attention_tiled_forward` (Dao 2023).

    The weights P of a tile are recomputed from lse. The sum over keys in the gradient of softmax needs no weights:
    delta = sum_keys(d_P P) = sum_d(d_O O), because O = P v. With dropout, O = (M P) v, and d_P = M (d_O v^T): the
    factors M move from one side of the sum to the other.
    """
    q, k, v = _heads(qkv, num_heads)  # (B, H, T, D) each
    O, d_O = (x.reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3) for x in (y, d_y))  # (B, H, T, D) each
    T, D = q.shape[-2:]
    d_qkv = np.zeros((3, *q.shape))  # (3, B, H, T, D)
    d_q, d_k, d_v = d_qkv
    for first in reversed(range(0, T, Br)):
        queries = slice(first, min(first + Br, T))
        delta = (d_O[..., queries, :] * O[..., queries, :]).sum(axis=-1, keepdims=True)  # (B, H, br, 1)
        for keys in _key_blocks(queries, Bc):
            P = np.exp(_tile_scores(q, k, queries, keys) - lse[..., queries, None])  # (B, H, br, bc)
            M = 1.0 if mask is None else mask[..., queries, keys]  # (B, H, br, bc)
            d_P = M * (d_O[..., queries, :] @ v[..., keys, :].swapaxes(-1, -2))
            d_S = P * (d_P - delta)
            d_v[..., keys, :] += (M * P).swapaxes(-1, -2) @ d_O[..., queries, :]
            d_k[..., keys, :] += d_S.swapaxes(-1, -2) @ q[..., queries, :] / math.sqrt(D)
            d_q[..., queries, :] += d_S @ k[..., keys, :] / math.sqrt(D)
    return d_qkv.transpose(1, 3, 0, 2, 4).reshape(qkv.shape)  # (B, T, 3C)


def _key_blocks(queries: slice, Bc: int) -> list[slice]:
    """Return the blocks of keys that a tile attends to: the diagonal one first, then those before it."""
    first = queries.start
    return [queries, *(slice(start, min(start + Bc, first)) for start in range(0, first, Bc))]


def _tile_scores(q: Array, k: Array, queries: slice, keys: slice) -> Array:
    """Return S = q k^T / sqrt(D) of one tile and one block (B, H, br, bc), -inf where the key is in the future."""
    S = q[..., queries, :] @ k[..., keys, :].swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if keys == queries:
        S[..., np.triu(np.ones(S.shape[-2:], dtype=bool), 1)] = -np.inf
    return np.asarray(S)


def gelu_forward(x: Array) -> Array:
    """y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, the tanh form of GELU (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1.0 + np.tanh(GELU_SCALE * (x + GELU_CUBE * x**3)))


def gelu_backward(d_y: Array, x: Array) -> Array:
    """dy/dx = (1 + tanh(u)) / 2 + x (1 - tanh(u)^2) u' / 2, with u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)."""
    tanh = np.tanh(GELU_SCALE * (x + GELU_CUBE * x**3))
    slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x**2)
    return d_y * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh**2) * slope)


def relu_squared_forward(x: Array) -> Array:
    """y = max(x, 0)^2 (So et al. 2021)."""
    return np.asarray(np.maximum(x, 0.0) ** 2)


def relu_squared_backward(d_y: Array, x: Array) -> Array:
    """dy/dx = 2 max(x, 0)."""
    return d_y * 2.0 * np.maximum(x, 0.0)


def swiglu_forward(x: Array) -> Array:
    """y = silu(gate) up for x = gate | up, with silu(x) = x / (1 + exp(-x)) (Shazeer 2020). x (..., 2F), y (..., F)."""
    gate, up = np.split(x, 2, axis=-1)
    return np.asarray(gate / (1.0 + np.exp(-gate)) * up)


def swiglu_backward(d_y: Array, x: Array) -> Array:
    """d_gate = d_y up s (1 + gate (1 - s)), d_up = d_y gate s, with s = 1 / (1 + exp(-gate))."""
    gate, up = np.split(x, 2, axis=-1)
    s = 1.0 / (1.0 + np.exp(-gate))
    return np.concatenate([d_y * up * s * (1.0 + gate * (1.0 - s)), d_y * gate * s], axis=-1)


ACTIVATIONS: Mapping[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "gelu": (gelu_forward, gelu_backward),
    "relu_squared": (relu_squared_forward, relu_squared_backward),
    "swiglu": (swiglu_forward, swiglu_backward),
}
"""Forward and backward pass of the activation of the MLP, by the setting `mlp`."""


def cross_entropy_forward(logits: Array, targets: Ids) -> float:
    """Compute the mean of log(sum(exp(logits))) - logits[target] in nats, over the targets that are not -1.

    logits (B, T, V); targets (B, T).
    """
    counted = targets != NO_TARGET  # (B, T)
    rows, ids = logits[counted], targets[counted]  # (N, V), (N,)
    maximum = rows.max(axis=-1, initial=-np.inf)  # (N,)
    lse = maximum + np.log(np.exp(rows - maximum[:, None]).sum(axis=-1))  # (N,)
    return float((lse - rows[np.arange(len(rows)), ids]).sum() / max(len(rows), 1))


def cross_entropy_backward(logits: Array, targets: Ids) -> Array:
    """d_logits = (softmax(logits) - onehot(target)) / N, with N the number of targets; 0 where there is no target."""
    counted = targets != NO_TARGET  # (B, T)
    rows, ids = logits[counted], targets[counted]  # (N, V), (N,)
    d_rows = softmax(rows)  # (N, V)
    d_rows[np.arange(len(rows)), ids] -= 1.0
    d_logits = np.zeros_like(logits)  # (B, T, V)
    d_logits[counted] = d_rows / max(len(rows), 1)
    return d_logits


def _norm_forward(x: Array, p: Mapping[str, Array], name: str, shape: ModelShape) -> Array:
    """Apply the norm that the shape chooses. x (..., C)."""
    if shape.norm == "rms_norm":
        return rms_norm_forward(x, p[f"{name}.weight"])
    return layer_norm_forward(x, p[f"{name}.weight"], p.get(f"{name}.bias", 0.0))


def _norm_backward(
    d_y: Array, x: Array, p: Mapping[str, Array], name: str, shape: ModelShape, d: Tensors
) -> Array:  # fmt: skip
    """Return d_x; add the gradients of the parameters to `d`."""
    if shape.norm == "rms_norm":
        d_x, d[f"{name}.weight"] = rms_norm_backward(d_y, x, p[f"{name}.weight"])
    else:
        d_x, d[f"{name}.weight"], d[f"{name}.bias"] = layer_norm_backward(d_y, x, p[f"{name}.weight"])
    return d_x


def qk_forward(qkv: Array, p: Tensors, shape: ModelShape) -> Array:
    """Apply QK-norm (Henry et al. 2020) and rotary positions, if the shape has them. qkv and the result (B, T, 3C)."""
    q, k, v = _heads(qkv, shape.num_heads)  # (B, H, T, D) each
    if shape.qk_norm:
        q, k = rms_norm_forward(q, p["attn.q_norm.weight"]), rms_norm_forward(k, p["attn.k_norm.weight"])
    if shape.positions == "rope":
        q, k = rope_forward(q), rope_forward(k)
    return np.stack([q, k, v]).transpose(1, 3, 0, 2, 4).reshape(qkv.shape)


def qk_backward(d_y: Array, qkv: Array, p: Tensors, shape: ModelShape, d: Tensors) -> Array:
    """Return the gradient of qkv; add those of the norms to `d`."""
    d_q, d_k, d_v = _heads(d_y, shape.num_heads)  # (B, H, T, D) each
    if shape.positions == "rope":
        d_q, d_k = rope_backward(d_q), rope_backward(d_k)
    if shape.qk_norm:
        q, k, _ = _heads(qkv, shape.num_heads)
        d_q, d["attn.q_norm.weight"] = rms_norm_backward(d_q, q, p["attn.q_norm.weight"])
        d_k, d["attn.k_norm.weight"] = rms_norm_backward(d_k, k, p["attn.k_norm.weight"])
    return np.stack([d_q, d_k, d_v]).transpose(1, 3, 0, 2, 4).reshape(qkv.shape)


def block_forward(x: Array, p: Tensors, shape: ModelShape, masks: Mapping[str, Array | float] = NO_MASKS) -> Tensors:
    """resid_mid = x + attention(ln_1(x)), y = resid_mid + mlp(ln_2(resid_mid)) (Radford et al. 2019).

    x, y (B, T, C). Attention probabilities and both branches are multiplied by the factors of dropout. Returns all
    tensors by name, for `block_backward`.
    """

    def linear(x: Array, name: str) -> Array:
        return linear_forward(x, p[f"{name}.weight"], p.get(f"{name}.bias", 0.0))

    ln_1_out = _norm_forward(x, p, "ln_1", shape)  # (B, T, C)
    projected = linear(ln_1_out, "attn.c_attn")  # (B, T, 3C)
    qkv = qk_forward(projected, p, shape)  # (B, T, 3C)
    attn_out = attention_forward(qkv, shape.num_heads, masks["attention"])  # (B, T, C)
    resid_mid = x + masks["attn_branch"] * linear(attn_out, "attn.c_proj")  # (B, T, C)
    ln_2_out = _norm_forward(resid_mid, p, "ln_2", shape)  # (B, T, C)
    hidden = linear(ln_2_out, "mlp.c_fc")  # (B, T, F), or (B, T, 2F) with a gate
    act_out = ACTIVATIONS[shape.mlp][0](hidden)  # (B, T, F)
    y = resid_mid + masks["mlp_branch"] * linear(act_out, "mlp.c_proj")  # (B, T, C)
    return {
        "x": x, "ln_1_out": ln_1_out, "projected": projected, "qkv": qkv, "attn_out": attn_out, "resid_mid": resid_mid,
        "ln_2_out": ln_2_out, "hidden": hidden, "act_out": act_out, "y": y,
    }  # fmt: skip


def block_backward(
    d_y: Array, saved: Tensors, p: Tensors, shape: ModelShape, masks: Mapping[str, Array | float] = NO_MASKS
) -> tuple[Array, Tensors]:
    """Reverse the lines of the forward pass. Return d_x (B, T, C) and the gradients of the parameters.

    Args:
        d_y: Gradient of the output (B, T, C).
        saved: Result of `block_forward`.
        p: Parameters of the block.
        shape: Shape of the model.
        masks: Factors of dropout, those of the forward pass.
    """
    d: Tensors = {}

    def linear(d_out: Array, x: Array, name: str) -> Array:
        d_in, d[f"{name}.weight"], d[f"{name}.bias"] = linear_backward(d_out, x, p[f"{name}.weight"])
        return d_in

    d_act_out = linear(masks["mlp_branch"] * d_y, saved["act_out"], "mlp.c_proj")  # (B, T, F)
    d_hidden = ACTIVATIONS[shape.mlp][1](d_act_out, saved["hidden"])  # (B, T, F), or (B, T, 2F) with a gate
    d_ln_2_out = linear(d_hidden, saved["ln_2_out"], "mlp.c_fc")  # (B, T, C)
    d_resid_mid = d_y + _norm_backward(d_ln_2_out, saved["resid_mid"], p, "ln_2", shape, d)  # d_y bypasses the MLP
    d_attn_out = linear(masks["attn_branch"] * d_resid_mid, saved["attn_out"], "attn.c_proj")  # (B, T, C)
    d_qkv = attention_backward(d_attn_out, saved["qkv"], shape.num_heads, masks["attention"])  # (B, T, 3C)
    d_projected = qk_backward(d_qkv, saved["projected"], p, shape, d)  # (B, T, 3C)
    d_ln_1_out = linear(d_projected, saved["ln_1_out"], "attn.c_attn")  # (B, T, C)
    d_x = d_resid_mid + _norm_backward(d_ln_1_out, saved["x"], p, "ln_1", shape, d)  # (B, T, C)
    return d_x, {name: d[name] for name in p if name in d}


def _blocks(parameters: Mapping[str, Array]) -> list[Tensors]:
    """Return the parameters of each block, by their names within the block."""
    layers = 1 + max(int(name.split(".")[1]) for name in parameters if name.startswith("h."))
    prefixes = [f"h.{layer}." for layer in range(layers)]
    return [{n.removeprefix(prefix): t for n, t in parameters.items() if n.startswith(prefix)} for prefix in prefixes]


def model_forward(
    parameters: Mapping[str, Array], tokens: Ids, shape: ModelShape, masks: Masks | None = None
) -> tuple[Array, Array, list[Tensors]]:
    """Compute logits (B, T, V) from tokens (B, T), with dropout in training.

    Returns the logits and, for `model_backward`, the output of the final norm (B, T, C) and the tensors of each block.
    """
    x = embedding_forward(tokens, parameters["wte.weight"], parameters.get("wpe.weight"))  # (B, T, C)
    x = x0 = x if masks is None else masks.embedding * x  # (B, T, C)
    saved = []
    for layer, block in enumerate(_blocks(parameters)):
        x = x + block["x0_scale"] * x0 if "x0_scale" in block else x  # (B, T, C)
        saved.append(block_forward(x, block, shape, masks.blocks[layer] if masks else NO_MASKS))
        x = saved[-1]["y"]  # (B, T, C)
    ln_f_out = _norm_forward(x, parameters, "ln_f", shape)  # (B, T, C)
    return ln_f_out @ _head(parameters).T, ln_f_out, saved


def _head(parameters: Mapping[str, Array]) -> Array:
    """Return the matrix of the logits (V, C): that of the token embedding, unless there is another."""
    return parameters.get("lm_head.weight", parameters["wte.weight"])


def model_backward(
    d_logits: Array,
    ln_f_out: Array,
    saved: list[Tensors],
    parameters: Mapping[str, Array],
    tokens: Ids,
    shape: ModelShape,
    masks: Masks | None = None,
) -> Tensors:
    """Return the gradient of every parameter by name. A tied table receives gradients from both of its uses."""
    wte, d = parameters["wte.weight"], dict[str, Array]()
    d_ln_f_out, d_head, _ = linear_backward(d_logits, ln_f_out, _head(parameters).T)  # (B, T, C), (C, V)
    d_x = _norm_backward(d_ln_f_out, saved[-1]["y"], parameters, "ln_f", shape, d)
    x0, d_x0 = saved[0]["x"], np.zeros_like(d_x)
    for layer, block in reversed(list(enumerate(_blocks(parameters)))):
        block_masks = masks.blocks[layer] if masks else NO_MASKS
        d_x, d_block = block_backward(d_x, saved[layer], block, shape, block_masks)  # (B, T, C)
        d |= {f"h.{layer}.{name}": d_tensor for name, d_tensor in d_block.items()}
        if "x0_scale" in block:  # x + s x0
            d[f"h.{layer}.x0_scale"] = np.array([(d_x * x0).sum()])
            d_x0 = d_x0 + block["x0_scale"] * d_x
    d_x = d_x + d_x0
    d_x = d_x if masks is None else masks.embedding * d_x  # (B, T, C)
    d_wte, d_wpe = embedding_backward(d_x, tokens, wte, parameters.get("wpe.weight"))  # (V, C), (>= T, C)
    d["wte.weight"] = d_wte + d_head.T if shape.tied_head else d_wte
    if not shape.tied_head:
        d["lm_head.weight"] = d_head.T
    if d_wpe is not None:
        d["wpe.weight"] = d_wpe
    return {name: d[name] for name in parameters}


def loss_and_gradients(
    parameters: Mapping[str, Array], tokens: Ids, targets: Ids, shape: ModelShape, masks: Masks | None = None
) -> tuple[float, Tensors]:
    """Return the mean cross-entropy over the targets that are not -1, and its gradient for every parameter.

    tokens, targets (B, T); masks: the factors of dropout, if any.
    """
    logits, ln_f_out, saved = model_forward(parameters, tokens, shape, masks)
    d_logits = cross_entropy_backward(logits, targets)  # (B, T, V)
    gradients = model_backward(d_logits, ln_f_out, saved, parameters, tokens, shape, masks)
    return cross_entropy_forward(logits, targets), gradients


def clip_by_global_norm(gradients: Mapping[str, Array], bound: float) -> tuple[Tensors, float]:
    """Scale all gradients by one factor so that their global norm is at most `bound` (Pascanu et al. 2013).

    A bound of 0 disables clipping. Returns the gradients and their norm before clipping.
    """
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    scale = min(1.0, bound / norm) if bound and norm else 1.0
    return {name: scale * g for name, g in gradients.items()}, norm


def lr_group(name: str) -> str:
    """Return the learning-rate group of a tensor: attn, mlp, norm, pos or unembed."""
    groups = {"wte": "unembed", "lm_head": "unembed", "wpe": "pos", "ln_f": "norm", "ln_1": "norm", "ln_2": "norm"}
    if name.endswith(("q_norm.weight", "k_norm.weight", "x0_scale")):
        return "norm"
    part = name.split(".")[2] if name.startswith("h.") else name.split(".")[0]
    return groups.get(part, part)


def decays(name: str) -> bool:
    """Return True for tensors with weight decay: the matrices, but not biases, norms and position embeddings."""
    return name.endswith(".weight") and lr_group(name) not in ("norm", "pos")


ORTHOGONALIZATION = ((8.0172, -22.9411, 16.6113), (3.6119, -2.6521, 0.5123), (2.6610, -1.9451, 0.4357))
"""a, b, c of each step of `orthogonalize`: the polynomial a x + b x^3 + c x^5 is the one nearest to 1 between the
smallest singular value that the step before leaves, at first 0.01, and 1.01 times the largest, at first 1."""


def rescale_rows(x: Array) -> Array:
    """Rescale rows so that no singular value is above 1 (Prach and Lampert 2022, "Almost-Orthogonal Layers").

    x = S x with S_ii = (sum_j |(x x^T)_ij|)^(-1/2), after x = x / |x|. x (R, S) with R <= S.
    """
    x = x / (np.linalg.norm(x) + 1e-7)
    sums: Array = np.abs(x @ x.T).sum(axis=1, keepdims=True)
    return x / np.sqrt(sums + 1e-7)


def orthogonalize(x: Array) -> Array:
    """Bring the singular values of a matrix near 1 (Amsel et al. 2025, "The Polar Express").

    After `rescale_rows` (Boissin et al. 2025, "Turbo-Muon"), x = a x + (b G + c G^2) x with G = x x^T, for each step of
    `ORTHOGONALIZATION`: polynomials of the singular values, that leave the singular vectors as they are. x (R, S).
    """
    if x.shape[0] > x.shape[1]:
        return orthogonalize(x.T).T
    x = rescale_rows(x)
    for a, b, c in ORTHOGONALIZATION:
        gram = x @ x.T  # (R, R)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def muon_step(
    parameter: Array, gradient: Array, m: Array, *, lr: float, beta: float, weight_decay: float
) -> tuple[Array, Array]:
    """One Muon step for one matrix (R, S): m = beta m + (1 - beta) g; u = beta m + (1 - beta) g.

    p = p - lr (0.2 sqrt(max(R, S)) orthogonalize(u) + weight_decay p). The factor makes the root mean square of an
    update that of AdamW (Liu et al. 2025, "Muon is Scalable for LLM Training"). Returns the new parameter and m.
    """
    m = beta * m + (1.0 - beta) * gradient
    direction = orthogonalize(beta * m + (1.0 - beta) * gradient)
    scale = 0.2 * math.sqrt(max(parameter.shape))
    return parameter - lr * (scale * direction + weight_decay * parameter), m


def average_decay(step: int, decay: float) -> float:
    """Return min(decay, (1 + step) / (10 + step)): short memory at first, while the weights change fast."""
    return min(decay, (1.0 + step) / (10.0 + step))


def average_step(average: Array, parameter: Array, *, step: int, decay: float) -> Array:
    """Exponential moving average of a tensor after a step (Polyak and Juditsky 1992), for evaluation.

    average = d average + (1 - d) parameter, with d of `average_decay`. `step` counts from 1.
    """
    d = average_decay(step, decay)
    return d * average + (1.0 - d) * parameter


def outer_step(
    start: Array, changes: Sequence[Array], momentum: Array, *, lr: float, beta: float
) -> tuple[Array, Array]:
    """One outer step for one tensor, from the changes that each worker has made to it since `start`.

    Nesterov momentum on the mean change d (DiLoCo; Douillard et al. 2023): m = beta m + d, p = start + lr (d + beta m).
    Returns the new parameter and the new momentum m.
    """
    mean = sum(changes[1:], changes[0]) / len(changes)
    momentum = beta * momentum + mean
    return start + lr * (mean + beta * momentum), momentum


def adamw_step(
    parameter: Array,
    gradient: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Array, Array, Array]:
    """One AdamW step for one tensor (Kingma and Ba 2015; Loshchilov and Hutter 2019).

    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; m_hat = m / (1 - beta1^step);
    v_hat = v / (1 - beta2^step); p = p - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay p).

    Returns the new parameter and the new moments m and v. `step` counts from 1.
    """
    m = beta1 * m + (1.0 - beta1) * gradient
    v = beta2 * v + (1.0 - beta2) * gradient**2
    m_hat, v_hat = m / (1.0 - beta1**step), v / (1.0 - beta2**step)
    return parameter - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * parameter), m, v
