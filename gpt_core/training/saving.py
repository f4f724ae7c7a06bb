"""Saving a run: which checkpoints are due, and what is told of each."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from gpt_core.errors import GptError, SaveError
from gpt_core.training.checkpoint import Checkpoint, TrainingState, read_checkpoint
from gpt_core.training.events import CheckpointSaved, SaveFailed
from gpt_core.training.parts import Run


class Saver:
    """Writes the checkpoints of one run, at step boundaries only. A save that fails is told, and training goes on."""

    def __init__(self, run: Run) -> None:
        self.due: set[str] = set()
        self.under_way = False
        self._run = run
        self._saved: TrainingState | None = None  # what ckpt_latest holds
        self._last_save_s = time.monotonic()

    @property
    def minutes_are_over(self) -> bool:
        """Whether the last save of `ckpt_latest` is `save_every_minutes` ago."""
        minutes = self._run.settings.save_every_minutes
        return 0 < minutes < (time.monotonic() - self._last_save_s) / 60

    def save_due(self) -> Iterator[CheckpointSaved | SaveFailed]:
        """Everything in `due`, which is empty afterwards."""
        for kind in sorted(self.due):
            yield self.save(kind)
        self.due.clear()

    def save_if_new(self, kind: str) -> CheckpointSaved | SaveFailed | None:
        """Saves, unless `ckpt_latest` already holds this very state."""
        return None if self._saved == self._run.state else self.save(kind)

    def save(self, kind: str) -> CheckpointSaved | SaveFailed:
        """The run as it stands, as `kind`: latest, epoch or best."""
        run = self._run
        moments = run.optimizer.moments
        checkpoint = Checkpoint(
            settings=run.settings, preset=run.preset, state=run.state, tokenizer=run.tokenizer.to_bytes(),
            corpus_sha256=run.train_text.sha256, parameters=run.parameters, moments=(moments.first, moments.second),
        )  # fmt: skip
        return self._write(kind, checkpoint)

    def save_final(self) -> CheckpointSaved | SaveFailed:
        """`transformer`: the best model of the run, or where nothing was evaluated, the last."""
        best = self._run.store.path_of("best")
        if self._run.state.best_accuracy < 0:
            return self.save("final")
        try:
            return self._write("final", read_checkpoint(best))
        except GptError as error:
            return SaveFailed("final", str(self._run.store.path_of("final")), self._run.state.step, str(error))

    def _write(self, kind: str, checkpoint: Checkpoint) -> CheckpointSaved | SaveFailed:
        step = checkpoint.state.step
        self.under_way = True
        try:
            path = self._run.store.save(kind, checkpoint)
        except SaveError as error:
            epoch = checkpoint.state.epoch if kind == "epoch" else None
            return SaveFailed(kind, str(self._run.store.path_of(kind, epoch)), step, str(error))
        finally:
            self.under_way = False
            self._last_save_s = time.monotonic()
        if kind == "latest":
            self._saved = msgspec.structs.replace(self._run.state)
        return CheckpointSaved(kind, str(path), step)
