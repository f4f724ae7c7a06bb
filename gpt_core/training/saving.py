"""Saving a run: which checkpoints are due, their writing beside the training, and what is told of each.

Weights and moments change in an optimizer update and nowhere else. So at a step boundary only the small state is
copied, and a thread hashes and writes the tensors where they lie while the next step computes its gradients. Three
waits keep that safe, and there are no others: before an update, until the tensors were read (`wait_for_tensors`);
before a save, until the one before it has ended (`begin_due`); before a pause and the end, until all has (`finish`).

A checkpoint is told of as saved when it is on disk, synced, and not before: a few steps later than its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from gpt_core.checkpoints.store import LOCK, CheckpointStore
from gpt_core.errors import GptError, SaveError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState, read_checkpoint
from gpt_core.kernels import use_any_core
from gpt_core.training.events import CheckpointSaved, SaveFailed
from gpt_core.training.run import Run

Outcome = CheckpointSaved | SaveFailed
GO_ON_FROM = ("latest", "epoch")  # kinds that hold the run as it was last, and not as it was best


class Writing:
    """One checkpoint as each of some kinds, written one after the other by a thread of its own.

    `outcomes` fills as they come; `ended` is set last. These are plain attributes, and the thread gives a lock back but
    never takes one: whoever waits here, a signal handler among them, cannot keep it from its end.
    """

    def __init__(self, store: CheckpointStore, kinds: Sequence[str], checkpoint: Checkpoint) -> None:
        self.state = checkpoint.state
        self.outcomes: deque[Outcome] = deque()
        self.ended = False
        self._store, self._kinds, self._checkpoint = store, kinds, checkpoint
        self._error: BaseException | None = None
        self._were_read = False
        self._reading = threading.Lock()  # held until they were
        self._reading.acquire()
        self._thread = threading.Thread(target=self._write_beside, name="saving")
        try:
            self._thread.start()
        except RuntimeError:  # the system gives no more threads: training waits, which is better than no checkpoint
            self._write_all()

    def _write_beside(self) -> None:
        use_any_core()
        self._write_all()

    def wait_for_tensors(self) -> None:
        """Returns when the tensors were read, and may change."""
        with self._reading:
            pass

    def join(self) -> None:
        """Returns when all is on disk, or has failed."""
        if self._thread.ident is not None:
            self._thread.join()

    def raise_error(self) -> None:
        """Raises what ended the thread, if something did that is no failed save."""
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        try:
            for kind in self._kinds:
                is_last = kind == self._kinds[-1]
                self.outcomes.append(self._write(kind, self._tensors_were_read if is_last else None))
        except BaseException as error:
            self._error = error
        finally:
            self._tensors_were_read()
            self.ended = True

    def _write(self, kind: str, when_read: Callable[[], None] | None) -> Outcome:
        state = self._checkpoint.state
        try:
            path = self._store.save(kind, self._checkpoint, when_read=when_read)
        except SaveError as error:
            path = self._store.path_of(kind, state.epoch if kind == "epoch" else None)
            return SaveFailed(kind, str(path), state.step, str(error))
        return CheckpointSaved(kind, str(path), state.step)

    def _tensors_were_read(self) -> None:
        if not self._were_read:
            self._were_read = True
            self._reading.release()


class Saver:
    """Saves one run, at step boundaries only. A save that fails is told, and training goes on.

    `newest` is the last checkpoint that was saved to go on from, and its step; at first the one that was resumed.
    """

    def __init__(self, run: Run) -> None:
        self.due: set[str] = set()
        self.newest = (str(run.resumed_from or ""), run.state.step)
        self._run = run
        self._writing: Writing | None = None
        self._saved: TrainingState | None = None  # what ckpt_latest holds
        self._last_save_s = time.monotonic()

    @property
    def under_way(self) -> bool:
        """Whether a checkpoint is being written now."""
        return self._writing is not None and not self._writing.ended

    @property
    def is_saved(self) -> bool:
        """Whether `ckpt_latest` holds the run as it stands."""
        return self._saved == self._run.state

    @property
    def minutes_are_over(self) -> bool:
        """Whether the last save is `save_every_minutes` ago."""
        minutes = self._run.settings.save_every_minutes
        return 0 < minutes < (time.monotonic() - self._last_save_s) / 60

    def wait_for_tensors(self) -> None:
        """To be called before weights or moments change."""
        if self._writing is not None:
            self._writing.wait_for_tensors()

    def begin_due(self, *, keep_latest: bool = False) -> Iterator[Outcome]:
        """Begins to write what is `due`, after the save before it. With `keep_latest` a due ckpt_latest stays due."""
        kinds = sorted(self.due - {"latest"} if keep_latest else self.due)
        if kinds:
            yield from self.finish()
            self._begin(kinds, self._checkpoint())
            self.due.difference_update(kinds)

    def news(self) -> Iterator[Outcome]:
        """What has come of the save under way since it was last asked."""
        writing = self._writing
        if writing is None:
            return
        has_ended = writing.ended  # read first: all outcomes are there by then
        while writing.outcomes:
            outcome = writing.outcomes.popleft()
            self._note(outcome, writing.state)
            yield outcome
        if has_ended:
            self._writing = None
            writing.raise_error()

    def finish(self) -> Iterator[Outcome]:
        """Waits for the save under way to end."""
        if self._writing is not None:
            self._writing.join()
            yield from self.news()

    def save_if_new(self, kind: str) -> Iterator[Outcome]:
        """Saves and waits for it, unless `ckpt_latest` already holds this very state."""
        yield from self.finish()
        if not self.is_saved:
            self._begin([kind], self._checkpoint())
            yield from self.finish()

    def save_elsewhere(self, folders: Iterable[Path]) -> Iterator[Outcome]:
        """Save `ckpt_latest` in the first of other folders that can be written; nothing if none can."""
        state = self._run.state
        for folder in folders:
            is_new = not folder.exists()
            try:
                with CheckpointStore(folder) as store:
                    store.prepare(state.run_id, new_run=False)
                    path = store.save("latest", self._checkpoint())
            except GptError:
                if is_new:
                    with contextlib.suppress(OSError):
                        (folder / LOCK).unlink(missing_ok=True)
                        folder.rmdir()
            else:
                yield CheckpointSaved("latest", str(path), state.step)
                return

    def save_final(self) -> Iterator[Outcome]:
        """Saves `transformer` and waits for it: the best model of the run, or where nothing was evaluated, the last."""
        yield from self.finish()
        try:
            is_scored = self._run.state.best_accuracy >= 0
            checkpoint = read_checkpoint(self._run.store.path_of("best")) if is_scored else self._checkpoint()
        except GptError as error:
            yield SaveFailed("final", str(self._run.store.path_of("final")), self._run.state.step, str(error))
        else:
            self._begin(["final"], checkpoint)
            yield from self.finish()

    def _begin(self, kinds: Sequence[str], checkpoint: Checkpoint) -> None:
        self._last_save_s = time.monotonic()
        self._writing = Writing(self._run.store, kinds, checkpoint)

    def _note(self, outcome: Outcome, state: TrainingState) -> None:
        self._last_save_s = time.monotonic()
        if isinstance(outcome, CheckpointSaved):
            if outcome.kind in GO_ON_FROM:
                self.newest = (outcome.path, outcome.step)
            if outcome.kind == "latest":
                self._saved = state

    def _checkpoint(self) -> Checkpoint:
        """The run as it stands: a copy of the state, and the tensors themselves."""
        run = self._run
        moments = run.optimizer.moments
        return Checkpoint(
            settings=run.settings, preset=run.preset, state=msgspec.structs.replace(run.state),
            tokenizer=run.tokenizer.to_bytes(), corpus_sha256=run.train_text.sha256, parameters=run.parameters,
            moments=(moments.first, moments.second),
        )  # fmt: skip
