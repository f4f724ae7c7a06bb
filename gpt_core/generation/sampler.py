"""Sampling of the next token: pure functions of the logits.

In order: repetition penalty, temperature, top-k, top-p, one random draw. Computed in float64 from logits that are
shifted so that the maximum is 0, so nothing overflows at any temperature.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_core.config.settings import Settings
from gpt_core.errors import LogitsError


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters; each field is the setting of the same name."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    max_tokens: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Sampling:
        """Return the sampling parameters of the settings."""
        return cls(**{name: getattr(settings, name) for name in cls.__struct_fields__})


def apply_repetition_penalty(logits: NDArray[np.float64], seen: ArrayLike, penalty: float) -> NDArray[np.float64]:
    """Return the logits (V,) with those of the `seen` ids divided by the penalty if positive, else multiplied by it.

    CTRL (Keskar et al. 2019, section 4.1), changed so that negative logits decrease, too. The number of occurrences of
    an id does not matter.
    """
    if penalty == 1.0:
        return logits
    ids = np.unique(np.asarray(seen, dtype=np.intp))
    penalized = logits.copy()
    chosen = logits[ids]
    penalized[ids] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return penalized


def keep_top_k(logits: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the logits (V,) with all but the k largest set to -inf, and ties with the k-th kept. 0 keeps all."""
    if not 0 < k < logits.size:
        return logits
    edge = np.partition(logits, -k)[-k]
    return np.where(logits >= edge, logits, -np.inf)


def keep_top_p(probabilities: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    """Return the probabilities (V,) restricted to the nucleus and renormalized.

    The nucleus is the smallest set of most probable tokens with total probability p, and ties with the last of them
    (Holtzman et al. 2020). Tokens below (1 - p) / V add up to less than 1 - p, so the others reach p without them: only
    these are sorted, a few hundred instead of the entire vocabulary.
    """
    if p >= 1.0:
        return probabilities
    candidates = np.sort(probabilities[probabilities >= (1.0 - p) / probabilities.size])[::-1]
    last = min(int(np.searchsorted(np.cumsum(candidates), p)), candidates.size - 1)
    nucleus = np.where(probabilities >= candidates[last], probabilities, 0.0)
    normalized: NDArray[np.float64] = nucleus / nucleus.sum()
    return normalized


def next_token_probabilities(
    logits: NDArray[np.float32],
    sampling: Sampling,
    *,
    allowed: NDArray[np.bool_] | None = None,
    seen: ArrayLike = (),
) -> NDArray[np.float64]:
    """Return the distribution (V,) that `choose` draws from; at temperature 0 it is one-hot at the maximum.

    Args:
        logits: Logits (V,); -inf excludes a token.
        sampling: Sampling parameters.
        allowed: Mask (V,) of the ids that may be chosen; None for all.
        seen: Ids that the repetition penalty applies to.

    Raises:
        LogitsError: A logit is NaN or +inf, or every allowed token is excluded.
    """
    shifted = np.asarray(logits, dtype=np.float64)
    if not shifted.max() < np.inf:  # the maximum is NaN if any logit is, and NaN compares as false
        raise LogitsError(
            "the logits are not finite: the weights are damaged or the run diverged; check the file with "
            "`gpt-tui verify FILE`, or use an earlier checkpoint"
        )
    if allowed is not None:
        shifted = np.where(allowed, shifted, -np.inf)
    shifted = apply_repetition_penalty(shifted, seen, sampling.repetition_penalty)
    largest = shifted.max()
    if largest == -np.inf:
        raise LogitsError("no token can be chosen: every allowed token has a logit of -inf")
    if sampling.temperature == 0.0:
        probabilities = np.zeros_like(shifted)
        probabilities[int(shifted.argmax())] = 1.0
        return probabilities
    with np.errstate(over="ignore"):  # at a tiny temperature small logits become -inf, as they should
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
    """Return the id of the next token. Makes one random draw, also at temperature 0.

    Arguments and errors are those of `next_token_probabilities`; `random` makes the draw.
    """
    probabilities = next_token_probabilities(logits, sampling, allowed=allowed, seen=seen)
    possible = np.flatnonzero(probabilities)
    reached = np.cumsum(probabilities[possible])
    return int(possible[np.searchsorted(reached, random.random() * reached[-1], side="right")])
