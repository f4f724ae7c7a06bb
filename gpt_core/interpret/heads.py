"""Scores of attention heads: how much of a head's attention goes to places that have a known use."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_core.interpret.activations import attention_probabilities, checked_count, run
from gpt_core.kernels.arrays import Array, as_ids, not_finite_is_expected
from gpt_core.model.gpt import GPT


class HeadScores(NamedTuple):
    """Scores of all heads, (L, H) each.

    The induction score is a mean over the second occurrences in repeated sequences, the other scores are means over all
    positions of a text but the first of each sequence.

    Attributes:
        previous_token: Attention to the token before.
        first_token: Attention to the first token.
        induction: Attention to the token after the previous occurrence of the present token; see `induction_scores`.
        entropy: Entropy of the attention in nats; 0 if all of it goes to one token.
    """

    previous_token: Array
    first_token: Array
    induction: Array
    entropy: Array


@not_finite_is_expected
def head_scores(model: GPT, tokens: ArrayLike, repeated: ArrayLike) -> HeadScores:
    """Return the scores of all heads on a text, and their induction scores on a sequence that repeats.

    With the attention P (`attention`), over the positions t > 0: the mean of P[t, t - 1], of P[t, 0], and of
    -sum(P[t] ln P[t]). Previous-token and induction heads: Olsson et al. 2022, "In-context Learning and Induction
    Heads". Attention to the first token: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks".

    Args:
        model: The model. Its buffers are overwritten.
        tokens: Ids (B, T) of the text, at least two per sequence.
        repeated: Ids (B, 2 n) of random sequences, each repeated once; see `repeated_tokens`.

    Raises:
        ValueError: The tokens do not fit the model, or a sequence is too short.
    """
    tokens = as_ids(tokens)
    if tokens.ndim != 2 or tokens.shape[1] < 2:
        raise ValueError(f"tokens: got shape {tokens.shape}, expected (B, T) with T of at least 2")
    induction = induction_scores(model, repeated)
    run(model, tokens)
    T = tokens.shape[1]
    later = np.arange(1, T)
    previous, first, entropy = (np.empty(induction.shape, np.float32) for _ in range(3))
    for layer, block in enumerate(model.transformer.blocks):
        P = attention_probabilities(block.attn, model.shape)[:, :, 1:]  # (B, H, T - 1, T)
        previous[layer] = P[:, :, later - 1, later - 1].mean(axis=(0, 2))
        first[layer] = P[..., 0].mean(axis=(0, 2))
        entropy[layer] = -(P * np.log(np.maximum(P, np.finfo(np.float32).tiny))).sum(axis=-1).mean(axis=(0, 2))
    return HeadScores(previous, first, induction, entropy)


@not_finite_is_expected
def induction_scores(model: GPT, repeated: ArrayLike) -> Array:
    """Return the induction score (L, H) of all heads: mean attention from a repeated token to its earlier successor.

    With P (`attention`) and a sequence of n tokens that is repeated, the mean over the second occurrences t of
    P[t, t - n + 1] (Olsson et al. 2022). The token there is the one that follows in the repetition. A head that
    attends evenly has about 1 / t.

    Args:
        model: The model. Its buffers are overwritten.
        repeated: Ids (B, 2 n), the second half equal to the first.

    Raises:
        ValueError: The tokens do not fit the model, or do not repeat.
    """
    repeated = as_ids(repeated, "repeated")
    n, largest = repeated.shape[-1] // 2 if repeated.ndim == 2 else 0, model.shape.seq_len // 2
    if not 2 <= n <= largest or not np.array_equal(repeated[:, :n], repeated[:, n:]):
        raise ValueError(
            f"repeated: got shape {repeated.shape}, expected (B, 2 n) with n from 2 to {largest} and two equal halves"
        )
    run(model, repeated)
    second = np.arange(n, 2 * n)
    return np.stack([
        attention_probabilities(block.attn, model.shape)[:, :, second, second - n + 1].mean(axis=(0, 2))
        for block in model.transformer.blocks
    ])  # fmt: skip


def repeated_tokens(candidates: ArrayLike, length: int, *, sequences: int = 4, seed: int = 0) -> NDArray[np.int32]:
    """Return random sequences, each repeated once (B, 2 n): a text with no other pattern than its repetition.

    Args:
        candidates: Ids to choose from, such as those of all tokens with text. Each occurs at most once per sequence if
            there are enough.
        length: Tokens per sequence (n); twice as many must fit into the context.
        sequences: Number of sequences (B).
        seed: Random seed.

    Raises:
        ValueError: There are no candidates (N,), or no tokens or sequences are asked for.
    """
    candidates, random = as_ids(candidates, "candidates"), np.random.default_rng(seed)
    if candidates.ndim != 1 or not candidates.size:
        raise ValueError(f"candidates: got shape {candidates.shape}, expected ids (N,) with N of at least 1")
    length, sequences = checked_count("length", length, 1), checked_count("sequences", sequences, 1)
    enough = len(candidates) >= length
    rows = [random.choice(candidates, size=length, replace=not enough) for _ in range(sequences)]
    return np.tile(np.stack(rows), (1, 2))
