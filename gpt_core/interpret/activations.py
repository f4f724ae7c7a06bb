"""Activations of a forward pass by name, and attention probabilities.

The layers keep what the backward pass needs (`gpt_core.model.layers`), so most activations are read from their buffers.
Attention probabilities, norm outputs and outputs of the MLP's activation are not stored by any pass; they are computed
from the buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gpt_core.config.settings import ModelShape
from gpt_core.errors import shown
from gpt_core.kernels.arrays import Activations, Array, as_ids, not_finite_is_expected, widened
from gpt_core.model.gpt import GPT
from gpt_core.model.layers.attention import CausalSelfAttention
from gpt_core.model.layers.block import Block
from gpt_core.model.layers.linear import Linear

Trace = dict[str, Array]
"""Activations by name, in the order of the forward pass."""

EMBEDDING, FINAL_NORM, LOGITS = "embedding", "ln_f", "logits"
PROBABILITIES = "attn.probabilities"
BLOCK_ACTIVATIONS = (
    "ln_1", "attn.q", "attn.k", "attn.v", PROBABILITIES, "attn.heads", "attn.out", "resid_mid",
    "ln_2", "mlp.hidden", "mlp.{activation}", "mlp.out", "out",
)  # fmt: skip


def activation_names(shape: ModelShape) -> list[str]:
    """Return the names of all activations of a model, in the order of the forward pass; see `trace`."""
    names = [name.format(activation=shape.mlp) for name in BLOCK_ACTIVATIONS]
    blocks = [f"h.{layer}.{name}" for layer in range(shape.layers) for name in names]
    return [EMBEDDING, *blocks, FINAL_NORM, LOGITS]


def trace(model: GPT, tokens: ArrayLike | None = None, names: Iterable[str] | None = None) -> Trace:
    """Return activations of a forward pass by name, as copies.

    The stages are those of GPT-2 (Radford et al. 2019); `h.0` is the first block. With other layers, norms are RMS
    norms, q and k are those that are multiplied, normalized and rotated, there is no wpe, the head is lm_head, and the
    activation of the MLP has its name. For `.swiglu`, hidden is (B, T, 2F), gates and hidden units side by side. With
    `x0_shortcut`, the input of a block after the first is the output of the one before plus x0_scale times embedding:

        embedding                (B, T, C)     wte[token] + wpe[position]
        h.0.ln_1                 (B, T, C)     layer norm of the block's input
        h.0.attn.q, .k, .v       (B, H, T, D)  queries, keys and values of each head
        h.0.attn.probabilities   (B, H, T, T)  softmax(q kᵀ / sqrt(D)): query by key, 0 for later keys
        h.0.attn.heads           (B, T, C)     probabilities times v, all heads side by side
        h.0.attn.out             (B, T, C)     output projection of it, which is added to the block's input
        h.0.resid_mid            (B, T, C)     that sum
        h.0.ln_2                 (B, T, C)     layer norm of it
        h.0.mlp.hidden, .gelu    (B, T, F)     hidden units before and after GELU
        h.0.mlp.out              (B, T, C)     output projection of them, which is added to resid_mid
        h.0.out                  (B, T, C)     that sum, the output of the block
        ln_f                     (B, T, C)     final norm
        logits                   (B, T, V)     ln_f times wteᵀ

    Args:
        model: The model. Its buffers are overwritten.
        tokens: Ids (B, T). None reads the buffers that the model's last batch left, without a forward pass; call it
            before the weights change.
        names: Names to return; None for all. The probabilities of all heads are the largest arrays.

    Raises:
        ValueError: The tokens do not fit the model, a name is unknown, or there is no last batch.
    """
    known = activation_names(model.shape)
    wanted = set(known if names is None else names)
    if unknown := sorted(wanted - set(known)):
        raise ValueError(f"names: got {unknown[0]!r}, expected names such as {known[0]!r} and {known[1]!r}")
    run(model, tokens)
    return {name: _activation(model, name) for name in known if name in wanted}


def attention(model: GPT, tokens: ArrayLike | None = None, layers: Sequence[int] | None = None) -> Array:
    """Return the attention probabilities (L, B, H, T, T), query by key.

    P = softmax(q kᵀ / sqrt(D)) over the keys up to the query's position (Vaswani et al. 2017). Each row sums to 1.

    Args:
        model: The model. Its buffers are overwritten.
        tokens: Ids (B, T); None for the model's last batch, without a forward pass.
        layers: Layers to return, L of them; None for all.

    Raises:
        ValueError: The tokens do not fit the model, or there is no last batch.
        IndexError: There is no such layer.
    """
    run(model, tokens)
    blocks, (B, T, _), H = model.transformer.blocks, model.batch, model.shape.num_heads
    chosen = range(len(blocks)) if layers is None else list(layers)
    found = np.empty((len(chosen), B, H, T, T), np.float32)
    for probabilities, layer in zip(found, chosen, strict=True):
        if not -len(blocks) <= layer < len(blocks):
            raise IndexError(f"layers: got {layer}, expected 0 to {len(blocks) - 1}")
        probabilities[...] = attention_probabilities(blocks[layer].attn, model.shape)
    return found


def run(model: GPT, tokens: ArrayLike | None) -> None:
    """Run the model up to its head; without tokens, check that its buffers hold a batch. Raises ValueError."""
    if tokens is None:
        _ = model.batch  # raises ValueError
    else:
        model.forward(as_ids(tokens))


def checked_count(name: str, value: int, minimum: int = 0) -> int:
    """Return a count. Raises ValueError for anything but a whole number of at least `minimum`."""
    if not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name}: got {shown(value)}, expected a whole number of at least {minimum}")
    return int(value)


@not_finite_is_expected
def attention_probabilities(layer: CausalSelfAttention, shape: ModelShape) -> Array:
    """Return the probabilities (B, H, T, T) of a layer, from the queries and keys of its last pass.

    They are computed in float32, whatever the number format of the kernels.
    """
    q, k = by_head(layer.q, shape), by_head(layer.k, shape)
    scores: Array = q @ k.swapaxes(-1, -2)
    scores *= np.float32(1.0 / math.sqrt(shape.head_size))
    np.copyto(scores, -np.inf, where=np.triu(np.ones(scores.shape[-2:], dtype=bool), 1))
    return _softmax_in_place(scores)


def by_head(x: Activations, shape: ModelShape) -> Array:
    """Return channels (B, T, C) as heads (B, H, T, D) in float32."""
    B, T, _ = x.shape
    return widened(x).reshape(B, T, shape.num_heads, shape.head_size).transpose(0, 2, 1, 3)


class ResidualPlace(NamedTuple):
    """Place of the residual stream.

    Attributes:
        name: Name of the activation, as in `trace`.
        values: The stream there (N, C), as the layers hold it.
    """

    name: str
    values: Array


def residual_places(model: GPT) -> list[ResidualPlace]:
    """Return the residual stream at all places, 1 + 2 L of them: embedding, then after each attention and each MLP."""
    places = [ResidualPlace(EMBEDDING, model.transformer.embedding.out)]
    for layer, block in enumerate(model.transformer.blocks):
        places += [ResidualPlace(f"h.{layer}.resid_mid", block.resid_mid), ResidualPlace(f"h.{layer}.out", block.out)]
    return places


def residual_logits(model: GPT, residual: Array) -> Array:
    """Return the logits (N, V) of a residual stream (N, C) of the last batch: final norm and head applied to it."""
    found = np.empty((len(residual), model.shape.vocab_size), dtype=np.float32)
    for rows, logits in model.logits_of_residual(residual):
        found[rows] = logits
    return found


def _softmax_in_place(scores: Array) -> Array:
    """Replace scores by their softmax over the last axis; the maximum is subtracted, so that exp cannot overflow."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _activation(model: GPT, name: str) -> Array:
    """Return one activation of the last batch, as a copy."""
    transformer, (B, T, _) = model.transformer, model.batch
    stream = [transformer.embedding.out, *(block.out for block in transformer.blocks)]  # (N, C), inputs of the blocks
    found: Activations
    if name.startswith("h."):
        layer, _, part = name.removeprefix("h.").partition(".")
        number = int(layer)
        found = _block_activation(transformer.blocks[number], stream[number], part, model.shape)
    elif name == LOGITS:
        found = residual_logits(model, stream[-1])
    else:
        found = transformer.ln_f.forward(stream[-1]) if name == FINAL_NORM else stream[0]
    values = widened(found)
    return np.array(values.reshape(B, T, -1) if values.ndim == 2 else values)


def _block_activation(block: Block, x: Array, part: str, shape: ModelShape) -> Activations:
    """Return an activation of a block with input x (N, C): (N, …), or (B, H, T, …) for those of single heads."""
    attn, mlp, x = block.attn, block.mlp, block.input_of(x)
    match part:
        case "ln_1":
            return block.ln_1.forward(x)
        case "attn.q" | "attn.k" | "attn.v":
            return by_head({"q": attn.q, "k": attn.k, "v": attn.v}[part[-1]], shape)
        case "attn.probabilities":
            return attention_probabilities(attn, shape)
        case "attn.heads":
            return attn.attn_out
        case "attn.out":
            return projected(attn.c_proj, attn.attn_out)
        case "resid_mid":
            return block.resid_mid
        case "ln_2":
            return block.ln_2.forward(block.resid_mid)
        case "mlp.hidden":
            return mlp.hidden
        case "mlp.gelu" | "mlp.relu_squared" | "mlp.swiglu":
            return mlp.activated()
        case "mlp.out":
            return projected(mlp.c_proj, mlp.activated())
        case _:
            return block.out


def projected(layer: Linear, x: Activations) -> Array:
    """Return x W + b (N, out) of a linear layer in a new array."""
    y = np.empty((x.shape[0], layer.out_features), dtype=np.float32)
    layer.forward(y, x)
    return y
