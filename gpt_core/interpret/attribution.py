"""Attribution: which tokens of a context a prediction depends on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gpt_core.kernels.arrays import Array, as_ids, not_finite_is_expected
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters


@not_finite_is_expected
def attribution(model: GPT, tokens: ArrayLike, next_tokens: ArrayLike) -> Array:
    """Return gradient times input (B, T) of the log-probability of a chosen token after each sequence.

    a[t] = sum over the channels of x[t] · d log p / d x[t], with x the embedding of token and position (Shrikumar et
    al. 2016, "Not Just a Black Box"; Denil et al. 2014 for text). Above 0: the token makes the choice more probable, to
    first order. For a prediction inside a text, pass the text up to there.

    Memory: gradients of all parameters, which the backward pass of the layers writes.

    Args:
        model: The model. It is not changed; the passes have buffers of their own.
        tokens: Ids (B, T).
        next_tokens: Ids (B,) of the token after each sequence.

    Raises:
        ValueError: The arrays do not fit together or the model.
    """
    tokens, next_tokens = as_ids(tokens), as_ids(next_tokens, "next_tokens")
    if tokens.ndim != 2 or not tokens.size:
        raise ValueError(f"tokens: got shape {tokens.shape}, expected (B, T) with B and T of at least 1")
    if next_tokens.shape != tokens.shape[:1]:
        raise ValueError(f"next_tokens: got shape {next_tokens.shape}, expected one id per sequence of {tokens.shape}")
    if next_tokens.min() < 0:  # -1 would be no target
        raise ValueError(f"next_tokens: got {next_tokens.min()}, expected ids from 0 to {model.shape.vocab_size - 1}")
    targets = np.full(tokens.shape, -1, np.int32)
    targets[:, -1] = next_tokens
    passes = GPT(model.parameters, model.products)  # nothing frozen: the backward pass reaches the embedding
    passes.loss_and_gradients(tokens, targets, Parameters(model.shape), weight=-1.0)  # d(-loss) = d log p
    transformer = passes.transformer
    scores: Array = (transformer.d_residual * transformer.embedding.out).sum(axis=-1)
    return scores.reshape(tokens.shape)
