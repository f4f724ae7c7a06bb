"""Predictions at each position: losses, most probable next tokens, and the logit lens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_core.interpret.activations import checked_count, residual_logits, residual_places, run
from gpt_core.kernels import cross_entropy
from gpt_core.kernels.arrays import Array, as_ids, not_finite_is_expected
from gpt_core.model.gpt import GPT
from gpt_core.model.layers.layer import Ids
from gpt_core.progress import Progress, ignore_progress


class NextTokens(NamedTuple):
    """Predictions of the token after each position.

    Attributes:
        ids: The most probable tokens (B, T, K), the most probable first.
        probabilities: Their probabilities (B, T, K).
        entropy: Entropy of the distribution in nats (B, T); its exponential is about how many tokens the model is
            choosing between.
        target_probabilities: Probability of the token that follows in the text (B, T - 1).
        ranks: Rank of that token (B, T - 1): 1 for the most probable.
    """

    ids: Ids
    probabilities: Array
    entropy: Array
    target_probabilities: Array
    ranks: NDArray[np.int32]


class Lens(NamedTuple):
    """Predictions from the residual stream at each place, P = 1 + 2 L of them.

    Attributes:
        places: Names of the places, as in `trace`: the embedding, then after each attention and each MLP.
        ids: The most probable tokens (P, B, T, K), the most probable first.
        probabilities: Their probabilities (P, B, T, K).
    """

    places: Sequence[str]
    ids: Ids
    probabilities: Array


def token_losses(model: GPT, tokens: ArrayLike) -> Array:
    """Return the loss of each token but the first of a sequence, in nats (B, T - 1).

    loss = log(sum(exp(logits))) - logits[token], the cross-entropy of the prediction from the tokens before it. Divided
    by ln 2 it is the surprise in bits, -log2 p (Shannon 1948). `GPT.evaluate` and `Model.evaluate` add up the same
    losses.

    Args:
        model: The model. Its buffers are overwritten.
        tokens: Ids (B, T), from 2 to the context length + 1 per sequence.

    Raises:
        ValueError: The tokens do not fit the model.
    """
    tokens, longest = as_ids(tokens), model.shape.seq_len + 1
    if tokens.ndim != 2 or not 2 <= tokens.shape[1] <= longest:
        raise ValueError(f"tokens: got shape {tokens.shape}, expected (B, T) with T from 2 to {longest}")
    inputs, targets = as_ids(tokens[:, :-1]), as_ids(tokens[:, 1:])
    model.evaluate(inputs, targets)
    return model.transformer.head.losses.reshape(inputs.shape).copy()


@not_finite_is_expected
def next_tokens(model: GPT, tokens: ArrayLike, count: int = 8) -> NextTokens:
    """Return the `count` most probable tokens after each position, and how well each prediction fits the text.

    p = softmax(logits); entropy = -sum(p ln p) (Shannon 1948).

    Args:
        model: The model. Its buffers are overwritten.
        tokens: Ids (B, T).
        count: Tokens per position (K), at most the size of the vocabulary.

    Raises:
        ValueError: The tokens do not fit the model, or `count` is negative.
    """
    tokens, K = as_ids(tokens), min(checked_count("count", count), model.shape.vocab_size)
    run(model, tokens)
    B, T = tokens.shape
    ids, probabilities = np.empty((B * T, K), np.int32), np.empty((B * T, K), np.float32)
    entropy, of_targets = np.empty(B * T, np.float32), np.zeros(B * T, np.float32)
    ranks = np.zeros(B * T, np.int32)
    targets = np.zeros((B, T), np.int32)  # the last of each sequence is not used
    targets[:, :-1] = tokens[:, 1:]
    flat = targets.reshape(-1)
    for rows, logits in model.logits_of_residual(model.transformer.blocks[-1].out):
        lse, best = log_sum_exp(logits)
        ids[rows], probabilities[rows] = most_probable(logits, lse, best, K)
        chosen = np.take_along_axis(logits, flat[rows, None], axis=-1)  # (R, 1)
        of_targets[rows] = np.exp(chosen[:, 0] - lse)
        ranks[rows] = 1 + (logits > chosen).sum(axis=-1)
        surprise = np.maximum(lse[:, None] - logits, 0.0)  # -ln p, also where large logits are rounded
        entropy[rows] = (np.exp(-surprise) * surprise).sum(axis=-1)
    return NextTokens(
        ids.reshape(B, T, K), probabilities.reshape(B, T, K), entropy.reshape(B, T),
        of_targets.reshape(B, T)[:, :-1], ranks.reshape(B, T)[:, :-1],
    )  # fmt: skip


def text_predictions(model: GPT, ids: ArrayLike, count: int = 8, progress: Progress = ignore_progress) -> NextTokens:
    """Return the predictions of a text of any length, as a batch of one sequence; see `next_tokens`.

    A text that is longer than the context is read in windows of the context's length, each half a window after the one
    before. A token is predicted in the first window that holds it, from at least about half a context.

    Args:
        model: The model. Its buffers are overwritten.
        ids: Ids of the text (N,).
        count: Tokens per place (K), at most the size of the vocabulary.
        progress: Called before each window; may raise to end the work.

    Raises:
        ValueError: The ids do not fit the model, there are none, the context holds no two of them, or `count` is
            negative.
    """
    ids, T = as_ids(ids, "ids"), model.shape.seq_len
    N = len(ids) if ids.ndim == 1 else 0
    if N < 1 or min(N, 2) > T:
        raise ValueError(
            f"ids: got shape {ids.shape} in a context of {T}, expected (N,) with N of at least 1; of 2 or more "
            "in a context of at least 2"
        )
    parts: list[tuple[NDArray[Any], ...]] = []
    for start in range(0, max(1, N - T + T // 2), max(1, T // 2)):
        progress("reading the text", start / N)
        window = ids[None, start : start + T]
        found = next_tokens(model, window, count)
        is_last = start + T >= N
        first, size = 0 if start == 0 else T - 1 - T // 2, window.shape[1]
        places, targets = slice(first, size if is_last else size - 1), slice(first, size - 1)
        parts.append((found.ids[:, places], found.probabilities[:, places], found.entropy[:, places],
                      found.target_probabilities[:, targets], found.ranks[:, targets]))  # fmt: skip
    return NextTokens(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


def logit_lens(
    model: GPT, tokens: ArrayLike | None = None, count: int = 1, positions: Sequence[int] | None = None
) -> Lens:
    """Return what the residual stream at each place would predict: final norm and head applied to it.

    p = softmax(ln_f(x) wteᵀ) for the stream x at each place (nostalgebraist 2020, "interpreting GPT: the logit lens").
    At the last place it is the prediction of the model. The head runs once per place, so the cost grows with the
    number of positions.

    Args:
        model: The model. Its buffers are overwritten.
        tokens: Ids (B, T); None for the model's last batch, without a forward pass.
        count: Tokens per position (K), at most the size of the vocabulary.
        positions: Positions to return, T of the result; None for all.

    Raises:
        ValueError: The tokens do not fit the model, there is no last batch, or `count` is negative.
        IndexError: There is no such position.
    """
    K = min(checked_count("count", count), model.shape.vocab_size)
    run(model, tokens)
    B, T, _ = model.batch
    rows = np.arange(B * T).reshape(B, T)[:, slice(None) if positions is None else list(positions)]
    places = residual_places(model)
    ids = np.empty((len(places), rows.size, K), np.int32)
    probabilities = np.empty((len(places), rows.size, K), np.float32)
    for number, place in enumerate(places):
        for part, logits in model.logits_of_residual(place.values, rows.reshape(-1)):
            lse, best = log_sum_exp(logits)
            ids[number, part], probabilities[number, part] = most_probable(logits, lse, best, K)
    shape = (len(places), *rows.shape, K)
    return Lens([place.name for place in places], ids.reshape(shape), probabilities.reshape(shape))


def lens_logits(model: GPT, place: str, tokens: ArrayLike | None = None) -> Array:
    """Return the logits (B, T, V) of the residual stream at one place; see `logit_lens`.

    Args:
        model: The model. Its buffers are overwritten.
        place: Name of the place, one of `Lens.places`.
        tokens: Ids (B, T); None for the model's last batch, without a forward pass.

    Raises:
        ValueError: The tokens do not fit the model, there is no last batch, or there is no such place.
    """
    run(model, tokens)
    places = dict(residual_places(model))
    if place not in places:
        raise ValueError(f"place: got {place!r}, expected one of {', '.join(places)}")
    B, T, _ = model.batch
    return residual_logits(model, places[place]).reshape(B, T, -1)


@not_finite_is_expected
def log_sum_exp(logits: Array) -> tuple[Array, Ids]:
    """Return log(sum(exp(logits))) and the most probable id of each row (R, V), from the kernel of the loss."""
    lse, best = np.empty(len(logits), np.float32), np.empty(len(logits), np.int32)
    cross_entropy.forward(lse, best, logits, np.zeros(len(logits), np.int32))  # lse - logits[:, 0]
    lse += logits[:, 0]
    return lse, best


@not_finite_is_expected
def most_probable(logits: Array, lse: Array, best: Ids, count: int) -> tuple[Ids, Array]:
    """Return the `count` most probable ids of each row (R, K), the most probable first, and their probabilities.

    Args:
        logits: Logits (R, V).
        lse: Result of `log_sum_exp`.
        best: Its other result.
        count: Ids per row (K).
    """
    if count == 1:
        ids = best[:, None]
    else:
        chosen = np.sort(np.argpartition(-logits, count - 1, axis=-1)[:, :count], axis=-1)  # in the order of the ids
        order = np.argsort(-np.take_along_axis(logits, chosen, axis=-1), axis=-1, kind="stable")
        ids = np.take_along_axis(chosen, order, axis=-1).astype(np.int32)
    return ids, np.exp(np.take_along_axis(logits, ids, axis=-1) - lse[:, None])
