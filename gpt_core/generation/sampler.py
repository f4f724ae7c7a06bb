"""Choosing the next token: pure functions from the model's logits to one id.

The order is the usual one: repetition penalty, temperature, top-k, top-p, then one draw. Everything is computed in
float64 from logits that were shifted so that the largest is 0, so nothing overflows, whatever logits and temperature.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_core.config.settings import Settings
from gpt_core.errors import GptError


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How a reply is sampled; the fields mean what the settings of the same names mean."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    max_tokens: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Sampling:
        """The part of the settings that generation reads."""
        return cls(**{name: getattr(settings, name) for name in cls.__struct_fields__})


def penalise_repetition(logits: NDArray[np.float64], seen: ArrayLike, penalty: float) -> NDArray[np.float64]:
    """Logits (V,) with those of the `seen` ids made less likely: divided by the penalty above 0, multiplied below.

    After CTRL (Keskar et al. 2019, section 4.1), with its division made to lower negative logits too. An id counts
    once, however often it was seen.
    """
    if penalty == 1.0:
        return logits
    ids = np.unique(np.asarray(seen, dtype=np.intp))
    penalised = logits.copy()
    chosen = logits[ids]
    penalised[ids] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return penalised


def keep_top_k(logits: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Logits (V,) with all but the k largest at -inf; 0, or k of V and more, keeps all. Ties at the edge are kept."""
    if not 0 < k < logits.size:
        return logits
    edge = np.partition(logits, -k)[-k]
    return np.where(logits >= edge, logits, -np.inf)


def keep_top_p(probabilities: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    """Probabilities (V,), all but the nucleus at 0: the fewest likeliest tokens that together reach p, scaled up to 1.

    After Holtzman et al. 2020; ties at the edge are kept. Tokens below (1 - p) / V add up to less than 1 - p, so the
    rest reaches p without them: only that rest is sorted, a few hundred tokens in place of a whole vocabulary.
    """
    if p >= 1.0:
        return probabilities
    candidates = np.sort(probabilities[probabilities >= (1.0 - p) / probabilities.size])[::-1]
    last = min(int(np.searchsorted(np.cumsum(candidates), p)), candidates.size - 1)
    kept = np.where(probabilities >= candidates[last], probabilities, 0.0)
    nucleus: NDArray[np.float64] = kept / kept.sum()
    return nucleus


def next_token_probabilities(
    logits: NDArray[np.float32],
    sampling: Sampling,
    *,
    allowed: NDArray[np.bool_] | None = None,
    seen: ArrayLike = (),
) -> NDArray[np.float64]:
    """The distribution (V,) that `choose` draws from; at temperature 0 all of it is on the likeliest token.

    `allowed` (V,) marks the ids that may be chosen at all (None: every one). A logit of -inf is a token that cannot
    come. Raises GptError when a logit is NaN or +inf, or when no allowed token can come.
    """
    shifted = np.asarray(logits, dtype=np.float64)
    if not shifted.max() < np.inf:  # NaN, which is the largest wherever it is, is not less than anything
        raise GptError(
            "the model gives logits that are not finite, so there is no next token: its weights are damaged or it "
            "diverged; check the file with `gpt-tui verify FILE`, or take an earlier checkpoint"
        )
    if allowed is not None:
        shifted = np.where(allowed, shifted, -np.inf)
    shifted = penalise_repetition(shifted, seen, sampling.repetition_penalty)
    largest = shifted.max()
    if largest == -np.inf:
        raise GptError("no token can come next: every logit is -inf or of a token that may not be chosen")
    if sampling.temperature == 0.0:
        probabilities = np.zeros_like(shifted)
        probabilities[int(shifted.argmax())] = 1.0
        return probabilities
    with np.errstate(over="ignore"):  # a tiny temperature sends what is far below the largest to -inf, which is meant
        shifted = (shifted - largest) / sampling.temperature
    weights = np.exp(keep_top_k(shifted, sampling.top_k))
    return keep_top_p(weights / weights.sum(), sampling.top_p)


def choose(
    logits: NDArray[np.float32],
    sampling: Sampling,
    random: np.random.Generator,
    *,
    allowed: NDArray[np.bool_] | None = None,
    seen: ArrayLike = (),
) -> int:
    """The id of the next token: one draw, also at temperature 0. The rest as in `next_token_probabilities`."""
    probabilities = next_token_probabilities(logits, sampling, allowed=allowed, seen=seen)
    possible = np.flatnonzero(probabilities)
    reached = np.cumsum(probabilities[possible])
    return int(possible[np.searchsorted(reached, random.random() * reached[-1], side="right")])
