"""Controls of a running trainer: flags set from any thread and read at step boundaries."""

from __future__ import annotations

POLL_S = 0.02
"""Time between two reads of the controls while the trainer waits."""


class TrainingControls:
    """Requests to one trainer, from any thread and from signal handlers.

    With local steps (`gpt_core.training.rounds`) the step boundaries named here are the ends of rounds, but
    `stop(save=False)` ends the run within a round, too.

    A request sets attributes, each of which is atomic. There is no lock, so a signal handler that interrupts the
    trainer between two reads cannot cause a deadlock.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.discarding = False
        self.pausing = False
        self.can_ask = False
        """If the last save fails, wait for `save` or `stop(save=False)`: there is a user interface that can ask."""
        self._save = False
        self._evaluate = False
        self._single_step = False

    def stop(self, *, save: bool = True) -> None:
        """Stop at the next step boundary, after saving `ckpt_latest` unless `save` was false in any call."""
        self.discarding |= not save
        self.stopping = True

    def pause(self) -> None:
        """Pause at the next step boundary."""
        self.pausing = True

    def unpause(self) -> None:
        """Continue after a pause."""
        self.pausing = False

    def save(self) -> None:
        """Save `ckpt_latest` at the next step boundary and continue."""
        self._save = True

    def evaluate(self) -> None:
        """Evaluate at the next step boundary and continue."""
        self._evaluate = True

    def single_step(self) -> None:
        """While paused: take one step, then pause again."""
        self._single_step = True

    @property
    def anything_pending(self) -> bool:
        """True while a save, an evaluation or a single step is pending."""
        return self._save or self._evaluate or self._single_step

    def take_save(self) -> bool:
        """Return True once per `save`."""
        requested, self._save = self._save, False
        return requested

    def take_evaluate(self) -> bool:
        """Return True once per `evaluate`."""
        requested, self._evaluate = self._evaluate, False
        return requested

    def take_single_step(self) -> bool:
        """Return True once per `single_step`."""
        requested, self._single_step = self._single_step, False
        return requested
