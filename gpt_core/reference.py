"""The whole model, forward and backward, in NumPy float64: short enough to learn from, slow, and the yardstick.

The compiled kernels are held to these functions, and these functions to central differences (`gpt_core.gradcheck`).

Shapes: B batch, T time, C channels, H heads, D head size (C = H D), F hidden, V vocabulary, L layers.
Each forward stands directly above its backward. A backward takes `d_y`, the gradient of the loss with respect to what
the forward returned, and the forward's inputs; it computes again what else it needs of the forward, and returns the
gradients with respect to those inputs, in their order. `d_<name>` has the shape of <name>.

Papers: Vaswani et al. 2017, "Attention Is All You Need" (attention, residual blocks); Radford et al. 2019, "Language
Models are Unsupervised Multitask Learners" (GPT-2: norms before the sublayers, a last norm, learned positions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape

Array = NDArray[np.float64]
Ids = NDArray[np.int32]
Tensors = dict[str, Array]

LAYER_NORM_EPS = 1e-5
GELU_SCALE, GELU_CUBE = math.sqrt(2.0 / math.pi), 0.044715
NO_TARGET = -1


def parameter_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model: its name in Hugging Face's `GPT2LMHeadModel`, and its shape, in the model's order."""
    C, F = shape.d_model, shape.hidden_size
    block = {
        "ln_1.weight": (C,), "ln_1.bias": (C,),
        "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),  # columns: queries | keys | values
        "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,), "ln_2.bias": (C,),
        "mlp.c_fc.weight": (C, F), "mlp.c_fc.bias": (F,),
        "mlp.c_proj.weight": (F, C), "mlp.c_proj.bias": (C,),
    }  # fmt: skip
    return {
        "wte.weight": (shape.vocab_size, C),  # reads the tokens and, tied, writes the logits
        "wpe.weight": (shape.seq_len, C),
        **{f"h.{layer}.{name}": size for layer in range(shape.layers) for name, size in block.items()},
        "ln_f.weight": (C,), "ln_f.bias": (C,),
    }  # fmt: skip


def initial_parameters(shape: ModelShape, seed: int) -> Tensors:
    """GPT-2's start (Radford 2019): normal, std 0.02; the two projections into the residual stream 0.02 / sqrt(2 L)."""
    random = np.random.default_rng(seed)
    parameters: Tensors = {}
    for name, size in parameter_shapes(shape).items():
        if name.endswith(".bias"):
            parameters[name] = np.zeros(size)
        elif len(size) == 1:
            parameters[name] = np.ones(size)
        else:
            std = 0.02 / math.sqrt(2 * shape.layers) if name.endswith("c_proj.weight") else 0.02
            parameters[name] = random.normal(0.0, std, size)
    return parameters


def embedding_forward(tokens: Ids, token_table: Array, position_table: Array) -> Array:
    """x[b, t] = token_table[tokens[b, t]] + position_table[t]. tokens (B, T), tables (V, C), (>= T, C); x (B, T, C)."""
    return token_table[tokens] + position_table[: tokens.shape[1]]


def embedding_backward(d_x: Array, tokens: Ids, token_table: Array, position_table: Array) -> tuple[Array, Array]:
    """Each row of a table collects the gradients of every place it was copied to."""
    d_token_table = np.zeros_like(token_table)  # (V, C)
    np.add.at(d_token_table, tokens, d_x)
    d_position_table = np.zeros_like(position_table)  # (>= T, C)
    d_position_table[: tokens.shape[1]] = d_x.sum(axis=0)
    return d_token_table, d_position_table


def _normalise(x: Array) -> tuple[Array, Array]:
    centred = x - x.mean(axis=-1, keepdims=True)  # (..., C)
    rstd = 1.0 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + LAYER_NORM_EPS)  # (..., 1)
    return centred * rstd, rstd


def layer_norm_forward(x: Array, weight: Array, bias: Array) -> Array:
    """y = weight n + bias, n = (x - mean(x)) / sqrt(variance(x) + eps) over C (Ba et al. 2016). x, y (..., C)."""
    return _normalise(x)[0] * weight + bias


def layer_norm_backward(d_y: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """d_x = rstd (d_n - mean(d_n) - n mean(d_n n)), d_n = d_y weight: n keeps mean 0 and variance 1 whatever x does."""
    n, rstd = _normalise(x)  # (..., C), (..., 1)
    d_n = d_y * weight  # (..., C)
    d_x = rstd * (d_n - d_n.mean(axis=-1, keepdims=True) - n * (d_n * n).mean(axis=-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return d_x, (d_y * n).sum(axis=rows), d_y.sum(axis=rows)


def linear_forward(x: Array, weight: Array, bias: Array) -> Array:
    """y = x weight + bias. x (..., I), weight (I, O), bias (O,); y (..., O)."""
    return x @ weight + bias


def linear_backward(d_y: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """d_x = d_y weight^T, d_weight = x^T d_y, d_bias = the sum of d_y's rows."""
    rows_x, rows_d_y = x.reshape(-1, x.shape[-1]), d_y.reshape(-1, d_y.shape[-1])  # (N, I), (N, O)
    return d_y @ weight.T, rows_x.T @ rows_d_y, rows_d_y.sum(axis=0)


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis; the largest is taken off first, so that nothing overflows."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _heads(qkv: Array, num_heads: int) -> Array:
    B, T, C3 = qkv.shape
    return qkv.reshape(B, T, 3, num_heads, C3 // 3 // num_heads).transpose(2, 0, 3, 1, 4)  # (3, B, H, T, D)


def _attention_weights(q: Array, k: Array) -> Array:
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, T): query by key
    future = np.triu(np.ones(scores.shape[-2:], dtype=bool), 1)  # (T, T)
    return softmax(np.where(future, -np.inf, scores))  # (B, H, T, T)


def attention_forward(qkv: Array, num_heads: int) -> Array:
    """y = softmax(q k^T / sqrt(D)) v, each head, over past and present (Vaswani 2017). qkv (B, T, 3C); y (B, T, C)."""
    q, k, v = _heads(qkv, num_heads)  # (B, H, T, D) each
    y = _attention_weights(q, k) @ v  # (B, H, T, D)
    return np.asarray(y.transpose(0, 2, 1, 3).reshape(*qkv.shape[:2], -1))  # (B, T, C)


def attention_backward(d_y: Array, qkv: Array, num_heads: int) -> Array:
    """With weights a = softmax(s): d_s = a (d_a - sum(d_a a)) over the keys, and the products' usual gradients."""
    q, k, v = _heads(qkv, num_heads)  # (B, H, T, D) each
    a = _attention_weights(q, k)  # (B, H, T, T)
    d_heads = d_y.reshape(*qkv.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)  # (B, H, T, D)
    d_a = d_heads @ v.swapaxes(-1, -2)  # (B, H, T, T)
    d_scores = a * (d_a - (d_a * a).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    d_qkv = np.stack([d_scores @ k, d_scores.swapaxes(-1, -2) @ q, a.swapaxes(-1, -2) @ d_heads])  # (3, B, H, T, D)
    return d_qkv.transpose(1, 3, 0, 2, 4).reshape(qkv.shape)  # (B, T, 3C)


def gelu_forward(x: Array) -> Array:
    """y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, the tanh form of GELU (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1.0 + np.tanh(GELU_SCALE * (x + GELU_CUBE * x**3)))


def gelu_backward(d_y: Array, x: Array) -> Array:
    """dy/dx = (1 + tanh(u)) / 2 + x (1 - tanh(u)^2) u' / 2, u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)."""
    tanh = np.tanh(GELU_SCALE * (x + GELU_CUBE * x**3))
    slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x**2)
    return d_y * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh**2) * slope)


def cross_entropy_forward(logits: Array, targets: Ids) -> float:
    """The mean of log(sum(exp(logits))) - logits[target] in nats, where target is not -1. (B, T, V), (B, T)."""
    counted = targets != NO_TARGET  # (B, T)
    rows, wanted = logits[counted], targets[counted]  # (N, V), (N,)
    largest = rows.max(axis=-1, initial=-np.inf)  # (N,)
    log_sums = largest + np.log(np.exp(rows - largest[:, None]).sum(axis=-1))  # (N,)
    return float((log_sums - rows[np.arange(len(rows)), wanted]).sum() / max(len(rows), 1))


def cross_entropy_backward(logits: Array, targets: Ids) -> Array:
    """d_logits = (softmax(logits) - onehot(target)) / N, N the number of targets; 0 where there is none."""
    counted = targets != NO_TARGET  # (B, T)
    rows, wanted = logits[counted], targets[counted]  # (N, V), (N,)
    d_rows = softmax(rows)  # (N, V)
    d_rows[np.arange(len(rows)), wanted] -= 1.0
    d_logits = np.zeros_like(logits)  # (B, T, V)
    d_logits[counted] = d_rows / max(len(rows), 1)
    return d_logits


def block_forward(x: Array, p: Tensors, num_heads: int) -> Tensors:
    """m = x + attention(norm(x)), y = m + mlp(norm(m)) (Radford 2019). x, y (B, T, C). Gives all tensors by name."""
    norm_1 = layer_norm_forward(x, p["ln_1.weight"], p["ln_1.bias"])  # (B, T, C)
    qkv = linear_forward(norm_1, p["attn.c_attn.weight"], p["attn.c_attn.bias"])  # (B, T, 3C)
    mixed = attention_forward(qkv, num_heads)  # (B, T, C)
    middle = x + linear_forward(mixed, p["attn.c_proj.weight"], p["attn.c_proj.bias"])  # (B, T, C)
    norm_2 = layer_norm_forward(middle, p["ln_2.weight"], p["ln_2.bias"])  # (B, T, C)
    hidden = linear_forward(norm_2, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"])  # (B, T, F)
    active = gelu_forward(hidden)  # (B, T, F)
    y = middle + linear_forward(active, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])  # (B, T, C)
    return {"x": x, "norm_1": norm_1, "qkv": qkv, "mixed": mixed, "middle": middle, "norm_2": norm_2,
            "hidden": hidden, "active": active, "y": y}  # fmt: skip


def block_backward(d_y: Array, kept: Tensors, p: Tensors, num_heads: int) -> tuple[Array, Tensors]:
    """The forward's lines, last to first; `kept` is what it returned. Gives d_x (B, T, C) and the parameters'."""
    d: Tensors = {}

    def linear(d_out: Array, x: Array, name: str) -> Array:
        d_in, d[f"{name}.weight"], d[f"{name}.bias"] = linear_backward(d_out, x, p[f"{name}.weight"])
        return d_in

    def layer_norm(d_out: Array, x: Array, name: str) -> Array:
        d_in, d[f"{name}.weight"], d[f"{name}.bias"] = layer_norm_backward(d_out, x, p[f"{name}.weight"])
        return d_in

    d_active = linear(d_y, kept["active"], "mlp.c_proj")  # (B, T, F)
    d_hidden = gelu_backward(d_active, kept["hidden"])  # (B, T, F)
    d_norm_2 = linear(d_hidden, kept["norm_2"], "mlp.c_fc")  # (B, T, C)
    d_middle = d_y + layer_norm(d_norm_2, kept["middle"], "ln_2")  # (B, T, C): d_y by the residual, past the MLP
    d_mixed = linear(d_middle, kept["mixed"], "attn.c_proj")  # (B, T, C)
    d_qkv = attention_backward(d_mixed, kept["qkv"], num_heads)  # (B, T, 3C)
    d_norm_1 = linear(d_qkv, kept["norm_1"], "attn.c_attn")  # (B, T, C)
    d_x = d_middle + layer_norm(d_norm_1, kept["x"], "ln_1")  # (B, T, C)
    return d_x, d


def _blocks(parameters: Mapping[str, Array]) -> list[Tensors]:
    """The parameters of each block, by their names within it."""
    layers = 1 + max(int(name.split(".")[1]) for name in parameters if name.startswith("h."))
    prefixes = [f"h.{layer}." for layer in range(layers)]
    return [{n.removeprefix(prefix): t for n, t in parameters.items() if n.startswith(prefix)} for prefix in prefixes]


def model_forward(parameters: Mapping[str, Array], tokens: Ids, num_heads: int) -> tuple[Array, Array, list[Tensors]]:
    """tokens (B, T) to logits (B, T, V).

    With them, for the way back: the last norm's output (B, T, C) and each block's tensors.
    """
    x = embedding_forward(tokens, parameters["wte.weight"], parameters["wpe.weight"])  # (B, T, C)
    kept = []
    for block in _blocks(parameters):
        kept.append(block_forward(x, block, num_heads))
        x = kept[-1]["y"]  # (B, T, C)
    norm_f = layer_norm_forward(x, parameters["ln_f.weight"], parameters["ln_f.bias"])  # (B, T, C)
    return norm_f @ parameters["wte.weight"].T, norm_f, kept


def model_backward(
    d_logits: Array, norm_f: Array, kept: list[Tensors], parameters: Mapping[str, Array], tokens: Ids, num_heads: int
) -> Tensors:
    """The gradient of every parameter, by its name. The tied table collects from both its uses."""
    wte, d = parameters["wte.weight"], dict[str, Array]()
    d_norm_f, d_wte_out, _ = linear_backward(d_logits, norm_f, wte.T)  # (B, T, C), (C, V)
    d_x, d["ln_f.weight"], d["ln_f.bias"] = layer_norm_backward(d_norm_f, kept[-1]["y"], parameters["ln_f.weight"])
    for layer, block in reversed(list(enumerate(_blocks(parameters)))):
        d_x, d_block = block_backward(d_x, kept[layer], block, num_heads)  # (B, T, C)
        d |= {f"h.{layer}.{name}": d_tensor for name, d_tensor in d_block.items()}
    d_wte_in, d["wpe.weight"] = embedding_backward(d_x, tokens, wte, parameters["wpe.weight"])  # (V, C), (>= T, C)
    d["wte.weight"] = d_wte_in + d_wte_out.T
    return {name: d[name] for name in parameters}


def loss_and_gradients(
    parameters: Mapping[str, Array], tokens: Ids, targets: Ids, num_heads: int
) -> tuple[float, Tensors]:
    """The mean cross-entropy over the targets that are not -1, and its gradient by every parameter. Both (B, T)."""
    logits, norm_f, kept = model_forward(parameters, tokens, num_heads)
    d_logits = cross_entropy_backward(logits, targets)  # (B, T, V)
    return cross_entropy_forward(logits, targets), model_backward(d_logits, norm_f, kept, parameters, tokens, num_heads)


def clip_by_global_norm(gradients: Mapping[str, Array], bound: float) -> tuple[Tensors, float]:
    """All gradients scaled down together to a norm of `bound` if theirs is larger (0: never), and the norm they had."""
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    scale = min(1.0, bound / norm) if bound and norm else 1.0
    return {name: scale * g for name, g in gradients.items()}, norm


def lr_group(name: str) -> str:
    """Which learning rate a tensor has: attn, mlp, norm, pos or unembed."""
    groups = {"wte": "unembed", "wpe": "pos", "ln_f": "norm", "ln_1": "norm", "ln_2": "norm"}
    part = name.split(".")[2] if name.startswith("h.") else name.split(".")[0]
    return groups.get(part, part)


def decays(name: str) -> bool:
    """True for the matrices; biases, norms and positions are not pulled to zero."""
    return name.endswith(".weight") and lr_group(name) not in ("norm", "pos")


def adamw_step(
    parameter: Array, gradient: Array, first: Array, second: Array, *, step: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """One update of one tensor (Kingma & Ba 2015; decay by itself: Loshchilov & Hutter 2019); step from 1.

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2; with m and v divided by 1 - beta^step,
    p = p - lr (m / (sqrt(v) + eps) + weight_decay p). Returns the new parameter and both moments.
    """
    first = beta1 * first + (1.0 - beta1) * gradient
    second = beta2 * second + (1.0 - beta2) * gradient**2
    m, v = first / (1.0 - beta1**step), second / (1.0 - beta2**step)
    return parameter - lr * (m / (np.sqrt(v) + eps) + weight_decay * parameter), first, second
