"""Reference values for a loss: perplexity, the loss of guessing, and detection of divergence."""

from __future__ import annotations

import math
from statistics import median

from gpt_core.formats.training_state import TrainingState

MAX_PERPLEXITY = 1e300  # larger values are clipped, so that a perplexity is always a finite number
MAX_EXPONENT = math.log(MAX_PERPLEXITY)

DIVERGED_RATIO = 2.0  # ratio of the loss to that of guessing above which a run has diverged
MEDIAN_STEPS = 16  # whose median loss is compared


def perplexity(loss: float) -> float:
    """Return exp(loss), at most MAX_PERPLEXITY: JSON and charts need finite numbers. NaN for a loss of NaN."""
    return min(math.exp(min(loss, MAX_EXPONENT)), MAX_PERPLEXITY)


def guessing_loss(vocab_size: int) -> float:
    """Return the loss of a model that gives every token the same probability."""
    return math.log(vocab_size)


class DivergenceMonitor:
    """Detects train losses above DIVERGED_RATIO times the loss of guessing.

    The median of the last MEDIAN_STEPS steps is compared, so that a spike of a few steps is not a divergence. The eval
    loss is not used: a model that memorized its training text may be worse than guessing on another. These losses are
    part of the state of the run, so that a resumed run ends as an uninterrupted one does.

    Attributes:
        is_reported: The present divergence was reported in this session.
    """

    def __init__(self, state: TrainingState, vocab_size: int) -> None:
        self.guessing_loss = guessing_loss(vocab_size)
        self._state = state
        self.is_reported = False

    @property
    def since(self) -> int | None:
        """Step at which losses became too high; None while they are not."""
        return self._state.high_loss_since

    @property
    def loss(self) -> float:
        """Median loss of the last steps; NaN before the first."""
        return median(self._state.last_losses) if self._state.last_losses else math.nan

    @property
    def has_diverged(self) -> bool:
        """True while the median loss of the last steps (fewer than MEDIAN_STEPS at first) is too high."""
        return self.loss > self._bound

    def add(self, loss: float) -> None:
        """Add the loss of the step that the state is at."""
        state = self._state
        state.last_losses = (*state.last_losses, loss)[-MEDIAN_STEPS:]
        if loss > self._bound:
            state.high_loss_since = state.high_loss_since or state.step
        elif not self.has_diverged:
            state.high_loss_since = None

    def take_report(self) -> bool:
        """Return True if a divergence is to be reported: once, and again only after a recovery."""
        is_full = len(self._state.last_losses) == MEDIAN_STEPS
        is_pending = is_full and self.has_diverged and not self.is_reported
        self.is_reported = is_pending or (self.is_reported and self.has_diverged)
        return is_pending

    @property
    def _bound(self) -> float:
        return DIVERGED_RATIO * self.guessing_loss
