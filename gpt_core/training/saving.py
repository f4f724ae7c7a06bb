"""Saving in the background: which checkpoints are pending, the thread that writes them, and the results.

Weights and optimizer state change only in an optimizer update. At a step boundary just the training state is copied; a
thread hashes and writes the tensors in place while the next step computes its gradients. Three waits keep this safe:
before an update, until the tensors are written (`wait_for_tensors`); before a save, until the previous one has ended
(`start_pending`); before a pause and at the end of the run, until the last one has ended (`finish`).

A checkpoint is reported as saved once it is on disk, which is a few steps after the step that it holds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from gpt_core.checkpoints.lock import LOCK
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator
from gpt_core.errors import BetterModelError, CheckpointError, GptError, SaveError
from gpt_core.formats.checkpoint import Checkpoint, CheckpointInfo, TrainingState, read_checkpoint
from gpt_core.training.events import CheckpointSaved, SaveFailed
from gpt_core.training.run import Run

SaveResult = CheckpointSaved | SaveFailed
KINDS_OF_LAST_STATE = ("latest", "epoch")  # as opposed to "best" and "final", which hold the best weights


class BackgroundSave:
    """One checkpoint that a thread saves under one or more names.

    `results` fills up as files are saved; `has_ended` is set last. Both are plain attributes, and the thread releases a
    lock but never takes one: nothing that waits here, such as a signal handler, can keep it from ending.

    `best_is_missing` is True if `best_model` could not be written. One that is better is kept, and nothing is missing.
    """

    def __init__(
        self,
        store: CheckpointStore,
        kinds: Sequence[str],
        checkpoint: Checkpoint,
        ranks: Communicator = SINGLE_PROCESS,
    ) -> None:
        self.state = checkpoint.state
        self.results: deque[SaveResult] = deque()
        self.has_ended = self.best_is_missing = False
        self._store, self._kinds, self._checkpoint, self._ranks = store, kinds, checkpoint, ranks
        self._error: BaseException | None = None
        self._tensors_are_written = False
        self._writing_tensors = threading.Lock()  # held until the tensors are written
        self._writing_tensors.acquire()
        self._thread = threading.Thread(target=self._save_all, name="saving")
        try:
            self._thread.start()
        except RuntimeError:  # no more threads available: save now, while training waits
            self._save_all()

    def wait_for_tensors(self) -> None:
        """Wait until the tensors are written and may change."""
        with self._writing_tensors:
            pass

    def join(self) -> None:
        """Wait until every file is on disk or has failed."""
        if self._thread.ident is not None:
            self._thread.join()

    def raise_error(self) -> None:
        """Raise the error that ended the thread, unless it was a SaveError, which is a result."""
        if self._error is not None:
            raise self._error

    def _save_all(self) -> None:
        try:
            with self._ranks.saving():
                for kind in self._kinds:
                    is_last = kind == self._kinds[-1]
                    self.results.append(self._save(kind, self._on_tensors_written if is_last else None))
        except BaseException as error:
            self._error = error
        finally:
            self._on_tensors_written()
            self.has_ended = True

    def _save(self, kind: str, when_read: Callable[[], None] | None) -> SaveResult:
        state = self.state
        try:
            path = self._store.save(kind, self._checkpoint, when_read=when_read)
        except SaveError as error:
            self.best_is_missing |= kind == "best" and not isinstance(error, BetterModelError)
            path = self._store.path_of(kind, state.epoch if kind == "epoch" else None)
            return SaveFailed(kind, str(path), state.step, str(error))
        return CheckpointSaved(kind, str(path), state.step)

    def _on_tensors_written(self) -> None:
        if not self._tensors_are_written:
            self._tensors_are_written = True
            self._writing_tensors.release()


class Saver:
    """Saves the checkpoints of one run, at step boundaries. A failed save is reported, and training continues.

    A best model that could not be written is pending again while its weights are the present ones. After that its score
    is forgotten, so that the next model that is better than the last saved one is saved.

    Attributes:
        pending: Kinds of checkpoints to save at the next `start_pending`.
        newest: Path and step of the last saved checkpoint that holds the last state of the run; at first those of the
            checkpoint that was resumed.
    """

    def __init__(self, run: Run) -> None:
        self.pending: set[str] = set()
        self.newest = (str(run.resumed_from or ""), run.state.step)
        self._run = run
        self._current: BackgroundSave | None = None
        self._saved: TrainingState | None = None  # contents of ckpt_latest
        self._saved_best = (run.state.best, run.state.best_step)
        self._best_may_be_elsewhere = run.resumed_from is not None and run.state.is_scored
        self._last_save_s = time.monotonic()

    @property
    def is_saving(self) -> bool:
        """True while a checkpoint is being written."""
        return self._current is not None and not self._current.has_ended

    @property
    def is_saved(self) -> bool:
        """True if `ckpt_latest` holds the present state of the run."""
        return self._saved == self._run.state

    @property
    def interval_elapsed(self) -> bool:
        """True if the last save was more than `save_every_minutes` ago."""
        minutes = self._run.settings.save_every_minutes
        return 0 < minutes < (time.monotonic() - self._last_save_s) / 60

    def wait_for_tensors(self) -> None:
        """Wait until weights and optimizer state may change; call it before each update."""
        if self._current is not None:
            self._current.wait_for_tensors()

    def start_pending(self, *, is_bad: bool = False) -> Iterator[SaveResult]:
        """Start saving what is pending, once the previous save has ended; yield the results of that one.

        Args:
            is_bad: True if the last state may be unusable: a pending `latest` remains pending, and there is no
                checkpoint of the epoch, which would be the newest one to resume.
        """
        self._forget_lost_best()
        if is_bad:
            self.pending.discard("epoch")
        kinds = sorted(self.pending.difference(KINDS_OF_LAST_STATE) if is_bad else self.pending)
        if kinds:
            yield from self.finish()
            if self._best_may_be_elsewhere and "best" not in kinds:
                yield from self._copy_best()
            self._start(kinds, self._checkpoint())
            self.pending.difference_update(kinds)

    def poll_results(self) -> Iterator[SaveResult]:
        """Yield the results since the last call, without waiting."""
        current = self._current
        if current is None:
            return
        has_ended = current.has_ended  # read first: all results are there by then
        while current.results:
            result = current.results.popleft()
            self._record(result, current)
            yield result
        if has_ended:
            self._current = None
            current.raise_error()

    def finish(self) -> Iterator[SaveResult]:
        """Wait for the current save to end, and yield its results."""
        if self._current is not None:
            self._current.join()
            yield from self.poll_results()

    def save_present(self) -> Iterator[SaveResult]:
        """Save the present state as `ckpt_latest`, unless that holds it, and what is pending; wait for it."""
        yield from self.finish()
        self._forget_lost_best()
        if self.is_saved:
            self.pending.discard("latest")
        else:
            self.pending.add("latest")
        yield from self.start_pending()
        yield from self.finish()

    def save_elsewhere(self, folders: Iterable[Path]) -> Iterator[SaveResult]:
        """Save `ckpt_latest` in the first of these folders that can be written; yield nothing if none can."""
        state = self._run.state
        for folder in folders:
            is_new = not os.path.lexists(folder)  # unlike `Path.exists`, also if a mount has failed
            try:
                with self._run.communicator.saving(), CheckpointStore(folder) as store:
                    store.prepare(state.run_id, new_run=False)
                    path = store.save("latest", self._checkpoint())
            except GptError:
                if is_new:
                    with contextlib.suppress(OSError):
                        (folder / LOCK).unlink(missing_ok=True)
                        folder.rmdir()
            else:
                self.newest = (str(path), state.step)
                yield CheckpointSaved("latest", *self.newest)
                return

    def save_final(self, reason: str) -> Generator[SaveResult, None, bool]:
        """Save `transformer` and wait for it: the best model of the run, or the last one if none was evaluated.

        Args:
            reason: Why the run ends.

        Returns:
            True if it was saved.
        """
        yield from self.finish()
        try:
            checkpoint = self._best(reason)
        except GptError as error:
            yield SaveFailed("final", str(self._run.store.path_of("final")), self._run.state.step, str(error))
            return False
        self._start(["final"], checkpoint)
        results = list(self.finish())
        yield from results
        return any(isinstance(result, CheckpointSaved) and result.kind == "final" for result in results)

    def _start(self, kinds: Sequence[str], checkpoint: Checkpoint) -> None:
        self._last_save_s = time.monotonic()
        self._current = BackgroundSave(self._run.store, kinds, checkpoint, self._run.communicator)

    def _record(self, result: SaveResult, save: BackgroundSave) -> None:
        self._last_save_s = time.monotonic()
        if isinstance(result, CheckpointSaved):
            if result.kind in KINDS_OF_LAST_STATE:
                self.newest = (result.path, result.step)
            if result.kind == "latest":
                self._saved = save.state
            if result.kind == "best":
                self._saved_best = (save.state.best, save.state.best_step)
        elif result.kind == "best" and save.best_is_missing:
            self.pending.add("best")

    def _forget_lost_best(self) -> None:
        """Compare with the best model that was saved, if a later one is pending and its weights are gone.

        Early stopping compares with the lost score, as it would have done otherwise.
        """
        state = self._run.state
        if "best" in self.pending and state.best_step != state.step:
            self.pending.discard("best")
            state.best_scheduled = state.best_scheduled or state.best
            best, state.best_step = self._saved_best
            state.best_accuracy, state.best_loss = best.accuracy, best.loss

    def _copy_best(self) -> Iterator[SaveResult]:
        """Save the best model of a resumed run as `best_model`, if it is in another file; wait for it.

        That may be in an earlier folder, which the next resume does not know, or in the `ckpt_latest` that is about to
        be replaced. A better model of a branch that was left is kept.
        """
        path = self._find_best()
        self._best_may_be_elsewhere = False
        if path is None or path == self._run.store.path_of("best"):
            return
        try:
            self._start(["best"], read_checkpoint(path))
        except CheckpointError as error:
            yield SaveFailed("best", str(path), self._run.state.best_step, str(error))
            return
        for result in self.finish():
            self._best_may_be_elsewhere = "best" in self.pending
            if isinstance(result, CheckpointSaved) or self._best_may_be_elsewhere:
                yield result

    def _best(self, reason: str) -> Checkpoint:
        """Return the best model of the run: the present state, if that is the best or the run was not evaluated.

        Raises:
            CheckpointError: No file has it.
        """
        state = self._run.state
        if not state.is_scored or state.best_step == state.step:
            return self._checkpoint(reason)
        if (path := self._find_best()) is not None:
            return read_checkpoint(path)
        raise CheckpointError(
            f"{self._run.store.folder}: no checkpoint has the best weights of the run, of step {state.best_step:,}; "
            "ckpt_latest has the last ones"
        )

    def _find_best(self) -> Path | None:
        """Return the file with the best model of the run, `best_model` if that has it; None if no file has it.

        It is in the folder of the run, or in one in which the run has saved before it was resumed. The best model there
        may be another one, if the run was resumed from an earlier checkpoint.
        """
        run = self._run
        for store in (run.store, *map(CheckpointStore, run.earlier_folders)):
            infos = [info for info in store.list() if isinstance(info, CheckpointInfo)]
            if paths := [info.path for info in infos if _is_best_of(run.state, info.state)]:
                best = store.path_of("best")
                return best if best in paths else paths[0]
        return None

    def _checkpoint(self, finished: str = "") -> Checkpoint:
        """Return the present state of the run: a copy of the training state, and the tensors themselves.

        Args:
            finished: Why the run ends, if the state does not say so yet.
        """
        run = self._run
        return Checkpoint(
            settings=run.settings, preset=run.preset,
            state=msgspec.structs.replace(run.state, finished=finished or run.state.finished),
            tokenizer=run.tokenizer.to_bytes(), corpus_sha256=run.texts.train.sha256, parameters=run.evaluated,
            optimizer_state=run.saved_state,
        )  # fmt: skip


def _is_best_of(state: TrainingState, saved: TrainingState) -> bool:
    """Return True if a saved state is that of the best evaluation of a run."""
    return (saved.run_id, saved.step, saved.best) == (state.run_id, state.best_step, state.best)


class NoSaver(Saver):
    """Saver of a rank that does not save: what is pending is dropped."""

    is_saved = True

    def start_pending(self, *, is_bad: bool = False) -> Iterator[SaveResult]:
        """Drop what is pending."""
        self.pending.clear()
        return iter(())

    def save_present(self) -> Iterator[SaveResult]:
        """Do nothing."""
        return iter(())

    def save_final(self, reason: str) -> Generator[SaveResult, None, bool]:
        """Do nothing."""
        yield from ()
        return True
