"""Reference values for a loss: perplexity, the loss of guessing, and detection of divergence."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

MAX_PERPLEXITY = 1e300  # larger values are clipped, so that a perplexity is always a finite number
MAX_EXPONENT = math.log(MAX_PERPLEXITY)

DIVERGED_RATIO = 2.0  # ratio of the loss to that of guessing above which a run has diverged
MEDIAN_STEPS = 16  # whose median loss is compared


def perplexity(loss: float) -> float:
    """Return exp(loss), at most MAX_PERPLEXITY: JSON and charts need finite numbers."""
    return min(math.exp(min(loss, MAX_EXPONENT)), MAX_PERPLEXITY)


def guessing_loss(vocab_size: int) -> float:
    """Return the loss of a model that gives every token the same probability."""
    return math.log(vocab_size)


class DivergenceMonitor:
    """Detects train losses above DIVERGED_RATIO times the loss of guessing.

    The median of the last MEDIAN_STEPS steps is compared, so that a spike of a few steps is not a divergence. The eval
    loss is not used: a model that memorized its training text may be worse than guessing on another.
    """

    def __init__(self, vocab_size: int) -> None:
        self.guessing_loss = guessing_loss(vocab_size)
        self.since: int | None = None
        """Step at which losses became too high; None while they are not."""
        self._losses: deque[float] = deque(maxlen=MEDIAN_STEPS)
        self._is_reported = False

    @property
    def loss(self) -> float:
        """Median loss of the last steps; NaN before the first."""
        return median(self._losses) if self._losses else math.nan

    @property
    def has_diverged(self) -> bool:
        """True while the median loss of the last steps (fewer than MEDIAN_STEPS at first) is too high."""
        return self.loss > self._bound

    def add(self, step: int, loss: float) -> None:
        """Add the loss of a step."""
        self._losses.append(loss)
        if loss > self._bound:
            self.since = self.since or step
        elif not self.has_diverged:
            self.since = None

    def take_report(self) -> bool:
        """Return True if a divergence is to be reported: once, and again only after a recovery."""
        is_full = len(self._losses) == MEDIAN_STEPS
        is_pending = is_full and self.has_diverged and not self._is_reported
        self._is_reported = is_pending or (self._is_reported and self.has_diverged)
        return is_pending

    @property
    def _bound(self) -> float:
        return DIVERGED_RATIO * self.guessing_loss
