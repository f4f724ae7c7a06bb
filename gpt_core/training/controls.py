"""What the world asks of a running trainer: flags that are set from anywhere and read at step boundaries."""

from __future__ import annotations


class TrainingControls:
    """Requests to one trainer, from any thread and from signal handlers.

    A request sets one attribute, which is atomic; it takes no lock, so a signal handler that interrupts the trainer
    between two reads cannot block it.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.discarding = False
        self.pausing = False
        self.asking = False
        """Whether the run waits for `save` or `stop(save=False)` when its last save fails: somebody can be asked."""
        self._save = False
        self._evaluate = False
        self._single_step = False

    def stop(self, *, save: bool = True) -> None:
        """Stop at the next step boundary, after saving `ckpt_latest` unless told otherwise (`discarding`)."""
        self.discarding = not save
        self.stopping = True

    def pause(self) -> None:
        """Wait at the next step boundary."""
        self.pausing = True

    def unpause(self) -> None:
        """End a pause."""
        self.pausing = False

    def save(self) -> None:
        """Save `ckpt_latest` at the next step boundary and go on."""
        self._save = True

    def evaluate(self) -> None:
        """Score the eval text at the next step boundary and go on."""
        self._evaluate = True

    def single_step(self) -> None:
        """While paused: take one step, then wait again."""
        self._single_step = True

    @property
    def anything_asked(self) -> bool:
        """Whether a save, an evaluation or a single step waits to be taken."""
        return self._save or self._evaluate or self._single_step

    def take_save(self) -> bool:
        """True once for each `save`."""
        asked, self._save = self._save, False
        return asked

    def take_evaluate(self) -> bool:
        """True once for each `evaluate`."""
        asked, self._evaluate = self._evaluate, False
        return asked

    def take_single_step(self) -> bool:
        """True once for each `single_step`."""
        asked, self._single_step = self._single_step, False
        return asked
