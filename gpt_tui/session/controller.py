"""The one run of the app: a thread that iterates a trainer's events, and the requests that reach it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from textual.message import Message

from gpt_core.config.settings import Settings
from gpt_core.errors import GptError, RunExistsError
from gpt_core.formats.checkpoint_header import TrainingState
from gpt_core.model.parameters import Parameters
from gpt_core.progress import Progress
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.controls import TrainingControls
from gpt_core.training.events import AnyEvent, RunStarted
from gpt_core.training.request import RunRequest
from gpt_tui.run_view.status import Phase, SessionFacts
from gpt_tui.session.event_buffer import Drained, EventBuffer
from gpt_tui.session.log_replay import replayed
from gpt_tui.session.run_state import Limits, RunState, Score
from gpt_tui.shared.error_log import log_traceback
from gpt_tui.shared.messages import ControllerUpdated
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.thread_priority import TRAINING, lower_priority

SAVE_POLL_S = 0.01


class TrainerLike(Protocol):
    """What the controller needs of `gpt_core.training.trainer.Trainer`."""

    settings: Settings
    tokenizer: Tokenizer
    requests: TrainingControls
    state: TrainingState

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written now."""

    @property
    def earlier_log(self) -> Path | None:
        """The log of the run's steps so far, if it is a resumed one that has such a log."""

    @property
    def unsaved(self) -> int:
        """While the run waits for an answer because its last save failed: how many have failed; else 0."""

    def events(self) -> Iterator[AnyEvent]:
        """The run, from RunStarted to RunFinished."""

    def weights_snapshot(self) -> tuple[Parameters, int]:
        """A consistent copy of the weights and the step it was made after."""


class OpenRun(Protocol):
    """Opens a requested run, as `gpt_core.training.setup.open_run` does. Called in the controller's thread."""

    def __call__(self, request: RunRequest, progress: Progress) -> TrainerLike:
        """A trainer that has not begun. Raises GptError."""


class Failure(NamedTuple):
    """Why a run could not begin or go on: one line for the user. `run_exists`: another run's files are in the way."""

    message: str
    run_exists: bool = False


class OpeningStoppedError(Exception):
    """Raised through `open_run` when the user stops a run before its first step."""


class TrainingController:
    """Owns the trainer and its thread; everything here may be called from the event loop and never blocks it.

    Only one run exists at a time. The thread posts `ControllerUpdated` when there is something that cannot wait
    for the next `drain`; it touches no widget. `post` must be safe to call from any thread.
    """

    def __init__(
        self,
        open_run: OpenRun,
        post: Callable[[Message], object],
        log_path: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_run = open_run
        self._post = post
        self._log_path = log_path
        self._clock = clock
        self._buffer = EventBuffer(RunState(), clock)
        self._thread: threading.Thread | None = None
        self._trainer: TrainerLike | None = None
        self._requests: TrainingControls | None = None
        self._stop_asked = threading.Event()
        self._discarding = False
        self._may_ask = True
        self._ended = False
        self._seen_end = True
        self._woken = False
        self.history = RunState()
        self._earlier = self.history  # of the run before; shown again where a new one is refused
        self.opening: tuple[str, float] = ("", 0.0)
        self.failure: Failure | None = None
        self.warning = ""
        self.request: RunRequest | None = None

    # -- requests

    def start(self, request: RunRequest) -> bool:
        """Begins a run in a new thread; False, and nothing happens, while another one is alive."""
        if self.alive:
            return False
        settings = request.settings
        limits = Limits(settings.max_epochs, settings.patience, settings.improvement_threshold)
        self.request = request
        self._earlier = self.history
        self.history = RunState(limits=limits)
        self._buffer = EventBuffer(self.history, self._clock)
        self.opening, self.failure, self.warning = ("reading the text", 0.0), None, ""
        self._trainer = self._requests = None
        self._stop_asked.clear()
        self._may_ask = True
        self._discarding = self._ended = self._seen_end = False
        self._thread = threading.Thread(target=self._run, args=(request,), name="controller")
        self._thread.start()
        return True

    def pause(self) -> None:
        """Wait after the present step."""
        if self._requests:
            self._requests.pause()

    def unpause(self) -> None:
        """End a pause."""
        if self._requests:
            self._requests.unpause()

    def single_step(self) -> None:
        """One step, then wait; a run that is not paused is paused after its present step."""
        if self._requests:
            if self._requests.pausing:
                self._requests.single_step()
            else:
                self._requests.pause()

    def save(self) -> None:
        """Save after the present step, and go on."""
        if self._requests:
            self._requests.save()

    def evaluate(self) -> None:
        """Score the eval text after the present step, and go on."""
        if self._requests:
            self._requests.evaluate()

    def stop(self, *, save: bool = True, may_ask: bool = False) -> None:
        """Stop after the present step, saving first unless told otherwise. Ends the opening of a run too.

        Only with `may_ask` the run waits for an answer if that save fails (`unsaved`).
        """
        self._discarding, self._may_ask = not save, may_ask
        self._stop_asked.set()
        if self._requests:
            self._requests.asking = may_ask
            self._requests.stop(save=save)

    def wait_for_save(self) -> None:
        """Waits for a save that is on its way, and for nothing else."""
        while (trainer := self._trainer) is not None and trainer.saving:
            time.sleep(SAVE_POLL_S)

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits for the thread to end; True if it has. For the way out, after the app has closed."""
        if self._thread:
            self._thread.join(timeout_s)
        return not (self._thread and self._thread.is_alive())

    # -- state

    @property
    def alive(self) -> bool:
        """Whether a run is under way, or has ended without its end having been drained."""
        return not self._seen_end

    @property
    def phase(self) -> Phase:
        """What the controller is doing, as far as it was drained."""
        if not self.alive:
            return self._phase_at_rest()
        if self._stop_asked.is_set() or self.history.finished:
            return Phase.STOPPING
        if self.history.started is None:
            return Phase.OPENING
        if self.history.evaluating is not None:
            return Phase.EVALUATING
        if self.history.paused:
            return Phase.PAUSED
        return Phase.PAUSING if self._requests and self._requests.pausing else Phase.TRAINING

    def _phase_at_rest(self) -> Phase:
        reason = self.history.finished.reason if self.history.finished else ""
        if (self.failure and not self.failure.run_exists) or reason == "diverged":
            return Phase.FAILED
        if reason == "stopped":
            return Phase.STOPPED
        return Phase.FINISHED if self.history.started else Phase.IDLE

    def facts(self) -> SessionFacts:
        """What the status panel shows beside the history."""
        return SessionFacts(self.phase, self._clock(), resident_bytes())

    def drain(self) -> Drained:
        """Folds what has happened into `history`. To be called a few times a second."""
        self._woken = False
        ended = self._ended  # read first: all events of an ended run are in the buffer by then
        drained = self._buffer.drain()
        self.history = drained.history
        changed = drained.changed or (ended and not self._seen_end)
        if ended:
            self._seen_end, self._trainer, self._requests = True, None, None  # its memory is free again
            if self.failure and self.failure.run_exists:  # nothing was begun: what was there stays
                self.history = self._earlier
        return drained._replace(changed=changed)

    @property
    def unsaved(self) -> int:
        """While the run waits for an answer because its last save failed: how many have failed so far; else 0."""
        return self._trainer.unsaved if self._trainer is not None else 0

    def live_model(self) -> TrainerLike | None:
        """The trainer of the run under way, whose weights can be asked for; None without one."""
        return self._trainer

    # -- the thread

    def _run(self, request: RunRequest) -> None:
        lower_priority(TRAINING)  # and with it the threads that the kernels begin in it
        try:
            trainer = self._open_run(request, self._opening_progressed)
            self._trainer, self._requests = trainer, trainer.requests
            trainer.requests.asking = self._may_ask
            if self._stop_asked.is_set():  # asked between the last progress report and now
                trainer.requests.stop(save=not self._discarding)
            self._buffer.begin(known_already(self.history, trainer))
            for event in trainer.events():
                if isinstance(event, RunStarted):
                    self.warning = one_line("; ".join(event.warnings))
                if self._buffer.put(event):
                    self._wake()
        except OpeningStoppedError:
            self._buffer.note("stopped before the first step", "plain")
        except GptError as error:
            self._fail(Failure(one_line(str(error)), isinstance(error, RunExistsError)))
        except BaseException as error:
            where = log_traceback(self._log_path, error)
            self._fail(Failure(f"{type(error).__name__}: {one_line(str(error), 200)} {where}"))
        finally:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        """Tells the app, unless it was told and has not looked yet, so that its queue cannot fill.

        When the app is gone already, the run still ends and saves as it should.
        """
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):
                self._post(ControllerUpdated())

    def _opening_progressed(self, words: str, share: float) -> None:
        if self._stop_asked.is_set():
            raise OpeningStoppedError
        self.opening = (words, share)

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._buffer.note(failure.message, "bad")


def known_already(history: RunState, trainer: TrainerLike) -> RunState:
    """The history with what a resumed run brings along: its curves, as far as its log has them, and its best score."""
    state = trainer.state
    if trainer.earlier_log is not None:
        with suppress(GptError):
            history = replayed(history, trainer.earlier_log, state.step)
    return replace(history, best=Score(state.best_accuracy, state.best_step, state.epochs_without_improvement))


def resident_bytes() -> int:
    """Memory that this process holds now, as far as the system tells; 0 where it does not."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
