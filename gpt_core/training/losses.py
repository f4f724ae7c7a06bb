"""Scales to judge a loss by: its perplexity, the loss of guessing, and whether a run has diverged."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

MAX_PERPLEXITY = 1e300  # a perplexity that is larger counts as this one, so that it stays a finite number
MAX_EXPONENT = math.log(MAX_PERPLEXITY)

DIVERGED_RATIO = 2.0  # a run has diverged whose loss is so many times that of guessing
WINDOW = 16  # steps whose median loss is looked at


def perplexity(loss: float) -> float:
    """Return exp(loss), at most MAX_PERPLEXITY: JSON and charts need finite numbers."""
    return min(math.exp(min(loss, MAX_EXPONENT)), MAX_PERPLEXITY)


def guessing_loss(vocab_size: int) -> float:
    """Return the loss of a model that gives every token the same probability."""
    return math.log(vocab_size)


class DivergenceMonitor:
    """Finds out whether training losses are far above the loss of guessing: more than DIVERGED_RATIO times as high.

    The median of the last WINDOW steps decides, so that a spike of a few steps is no divergence. Train loss it is, and
    not eval loss: a model that has memorized its training text may be worse than guessing on another.
    """

    def __init__(self, vocab_size: int) -> None:
        self.guessing_loss = guessing_loss(vocab_size)
        self.since: int | None = None
        """The step at which losses became too high; None while they are not."""
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._is_reported = False

    @property
    def loss(self) -> float:
        """The median loss of the last steps; NaN before the first."""
        return median(self._losses) if self._losses else math.nan

    @property
    def has_diverged(self) -> bool:
        """Whether the last steps, fewer than WINDOW at the beginning, are too high on the whole."""
        return self.loss > self._bound

    def add(self, step: int, loss: float) -> None:
        """Take the loss of a step into account."""
        self._losses.append(loss)
        if loss > self._bound:
            self.since = self.since or step
        elif not self.has_diverged:
            self.since = None

    def take_report(self) -> bool:
        """Whether a divergence is to be reported now: once over a full window, and again only after a recovery."""
        is_full = len(self._losses) == WINDOW
        is_due = is_full and self.has_diverged and not self._is_reported
        self._is_reported = is_due or (self._is_reported and self.has_diverged)
        return is_due

    @property
    def _bound(self) -> float:
        return DIVERGED_RATIO * self.guessing_loss
