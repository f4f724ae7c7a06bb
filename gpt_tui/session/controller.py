"""Training controller: the run of the session in a thread of its own, and the requests to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from textual.message import Message

from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import RankError
from gpt_core.errors import GptError, ResumeTextError, RunExistsError
from gpt_core.formats.training_state import TrainingState
from gpt_core.model.parameters import Parameters
from gpt_core.progress import Progress
from gpt_core.text.token_stream import TokenStream
from gpt_core.thread_priority import lower_priority
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.controls import TrainingControls
from gpt_core.training.events import AnyEvent, CheckpointSaved, RunStarted
from gpt_core.training.request import RunRequest
from gpt_tui.session.event_buffer import Drained, EventBuffer
from gpt_tui.session.log_replay import with_earlier_part
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_preview import kept_files
from gpt_tui.session.run_state import Limits, RunState
from gpt_tui.shared.error_log import log_traceback
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.thread_priority import TRAINING

SAVE_POLL_S = 0.01


class TrainerLike(Protocol):
    """The part of `gpt_core.training.trainer.Trainer` that the controller uses."""

    settings: Settings
    tokenizer: Tokenizer
    requests: TrainingControls
    state: TrainingState

    @property
    def saving(self) -> bool:
        """True while a checkpoint is being written."""

    @property
    def earlier_log(self) -> Path | None:
        """Metrics log of the earlier part of a resumed run, None without one."""

    @property
    def unsaved(self) -> int:
        """Number of failed last saves while the run waits for an answer about them; else 0."""

    @property
    def probe_text(self) -> TokenStream:
        """Text whose beginning the Inside tab shows."""

    def events(self) -> Generator[AnyEvent]:
        """Run and yield the events, from RunStarted to RunFinished."""

    def weights_snapshot(self) -> tuple[Parameters, int]:
        """Return a consistent copy of the weights, and the step after which it was made."""


class OpenRun(Protocol):
    """Opens a requested run, as `gpt_core.training.setup.open_run` does. Called in the controller's thread."""

    def __call__(self, request: RunRequest, progress: Progress) -> TrainerLike:
        """Return a trainer before its first step. Raises GptError."""


class Failure(NamedTuple):
    """Reason why a run could not start or continue.

    Attributes:
        message: The reason, in one line.
        run_exists: True if the folder of the run has another one.
        missing_text: Setting that must name the text of the resumed run, "" for another reason.
    """

    message: str
    run_exists: bool = False
    missing_text: str = ""

    @property
    def has_remedy(self) -> bool:
        """True if the app can ask for what helps."""
        return self.run_exists or bool(self.missing_text)


class OpeningStoppedError(Exception):
    """Raised in `open_run` when a run is stopped before its first step."""


class TrainingController:
    """Owns the trainer and its thread. No method blocks but `join` and `wait_for_save`; call them from the event loop.

    One run exists at a time. The thread touches no widget: it posts `Updated` when there is something to show before
    the next regular `drain`.

    Args:
        open_run: Opens a requested run.
        post: Posts a message; callable from any thread.
        log_path: File for tracebacks of unexpected errors.
        clock: Monotonic clock, in seconds.
        end_run: Called after the last event of a run on several ranks, in the controller's thread. Returns the exit
            code with which a signal to one of them ends the program, 0 without one. None: runs are on one process.
    """

    class Updated(Message, bubble=False):
        """There is something to drain that should be shown at once."""

    def __init__(
        self,
        open_run: OpenRun,
        post: Callable[[Message], object],
        log_path: Path,
        clock: Callable[[], float] = time.monotonic,
        end_run: Callable[[], int] | None = None,
    ) -> None:
        self._open_run = open_run
        self._end_run = end_run
        self._post = post
        self._log_path = log_path
        self._clock = clock
        self._buffer = EventBuffer(RunState(), clock)
        self._thread: threading.Thread | None = None
        self._trainer: TrainerLike | None = None
        self._stop_request = TrainingControls()
        """The requested stop of the run; the trainer receives it once the run is open."""
        self._ended = False
        self._seen_end = True
        self._woken = False
        self.run = RunState()
        self._previous = self.run  # shown again where a new run is refused
        self.opening: tuple[str, float] = ("", 0.0)
        self.failure: Failure | None = None
        self.warning = ""
        self.kept = ""
        """Note that the files of an earlier run were kept, "" if they were replaced or no replacement was requested."""
        self.request: RunRequest | None = None
        self._save_requested_at: int | None = None  # step shown when a save was requested; None once it has ended
        self.exit_code = 0
        """Exit code with which a signal to another rank ends the program; else 0."""
        self.fatal: BaseException | None = None
        """Error after which the ranks cannot train another run; None without one."""

    # -- requests

    def start(self, request: RunRequest) -> bool:
        """Start a run in a new thread. Return False without any effect while another run is alive."""
        if self.alive:
            return False
        self.request = request
        self._previous = self.run
        self.run = RunState(limits=Limits.of(request.settings))
        self._buffer = EventBuffer(self.run, self._clock)
        self.opening, self.failure = ("reading the text", 0.0), None
        self.warning = self.kept = ""
        self._trainer = None
        self._stop_request = TrainingControls()
        self._stop_request.can_ask = True
        self._save_requested_at = None
        self._ended = self._seen_end = False
        self._thread = threading.Thread(target=self._train, args=(request,), name="controller")
        self._thread.start()
        return True

    def dismiss_failure(self) -> bool:
        """Forget why a run could not start, once its cause may be gone. Return True if there was such a failure."""
        failed = not self.alive and self.failure is not None and not self.failure.run_exists
        if not failed or self.run.started is not None:  # the failure of a run that has started is part of its end
            return False
        self.failure = None
        return True

    def pause(self) -> None:
        """Pause after the current step."""
        if requests := self._requests:
            requests.pause()
            self._wake()

    def unpause(self) -> None:
        """Continue after a pause."""
        if requests := self._requests:
            requests.unpause()
            self._wake()

    def single_step(self) -> None:
        """Take one step and pause again; a run that is not paused is paused after its current step."""
        if requests := self._requests:
            if requests.pausing:
                requests.single_step()
            else:
                self.pause()

    def save(self) -> None:
        """Save after the current step."""
        if requests := self._requests:
            requests.save()
            self._save_requested_at = self.run.step

    def take_requested_save(self, saved: CheckpointSaved) -> bool:
        """Return True once per `save`, for the checkpoint that was saved after it."""
        requested_at = self._save_requested_at
        if requested_at is None or saved.kind != "latest" or saved.step < requested_at:
            return False
        self._save_requested_at = None
        return True

    def evaluate(self) -> None:
        """Evaluate after the current step."""
        if requests := self._requests:
            requests.evaluate()

    def stop(self, *, save: bool = True, may_ask: bool = False) -> None:
        """Stop the run after its current step; a run that is opening stops before its first.

        Args:
            save: Save a checkpoint first.
            may_ask: Wait for an answer if that save fails (`unsaved`).
        """
        self._stop_request.can_ask = may_ask
        self._stop_request.stop(save=save)
        if requests := self._requests:  # looked up after the request: a trainer that opens now reads it
            requests.can_ask = may_ask
            requests.stop(save=save)
        self._wake()

    def wait_for_save(self) -> None:
        """Wait for a save in progress."""
        while (trainer := self._trainer) is not None and trainer.saving:
            time.sleep(SAVE_POLL_S)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread to end, after the app has closed. Return True if it has ended."""
        if self._thread:
            self._thread.join(timeout_s)
        return not (self._thread and self._thread.is_alive())

    # -- state

    @property
    def alive(self) -> bool:
        """True while a run is in progress, and after its end until the next `drain`."""
        return not self._seen_end

    @property
    def phase(self) -> Phase:
        """Phase of the session at the last `drain`."""
        if not self.alive:
            return self._phase_at_rest()
        if self._stop_request.stopping or self.run.finished:
            return Phase.STOPPING
        if self.run.started is None:
            return Phase.OPENING
        if self.run.evaluating is not None:
            return Phase.EVALUATING
        if self.run.paused:
            return Phase.PAUSED
        return Phase.PAUSING if self.pausing else Phase.TRAINING

    @property
    def _requests(self) -> TrainingControls | None:
        trainer = self._trainer
        return None if trainer is None else trainer.requests

    @property
    def pausing(self) -> bool:
        """True from a request to pause until one to continue, also before the run has paused."""
        return (requests := self._requests) is not None and requests.pausing

    def _phase_at_rest(self) -> Phase:
        reason = self.run.finished.reason if self.run.finished else ""
        if (self.failure and not self.failure.run_exists) or reason == "diverged":
            return Phase.FAILED
        if reason == "stopped":
            return Phase.STOPPED
        return Phase.FINISHED if self.run.started else Phase.IDLE

    def status(self) -> SessionStatus:
        """Return phase, time and memory."""
        return SessionStatus(self.phase, self._clock(), resident_bytes())

    def drain(self) -> Drained:
        """Apply pending events to `run`. Call it a few times per second."""
        self._woken = False
        ended = self._ended  # before the drain: an ended run puts no more events
        drained = self._buffer.drain()
        self.run = drained.run
        changed = drained.changed or (ended and not self._seen_end)
        if ended:
            self._seen_end, self._trainer = True, None  # frees its memory
            if self.failure and self.failure.run_exists:  # no run has started: the previous one stays
                self.run = self._previous
        return drained._replace(changed=changed)

    @property
    def unsaved(self) -> int:
        """Number of failed last saves while the run waits for an answer about them; else 0."""
        return self._trainer.unsaved if self._trainer is not None else 0

    def live_model(self) -> TrainerLike | None:
        """Return the trainer of the run in progress, None without one."""
        return self._trainer

    # -- the thread

    def _train(self, request: RunRequest) -> None:
        lower_priority(TRAINING)  # the threads of the kernels inherit the nice value
        saved_in: set[Path] = set()
        try:
            trainer = self._open_run(request, self._opening_progressed)
            self._trainer = trainer
            trainer.requests.can_ask = self._stop_request.can_ask
            if self._stop_request.stopping:  # since the last progress report
                trainer.requests.stop(save=not self._stop_request.discarding)
            self._buffer.begin(with_earlier_part(self.run, trainer.earlier_log, trainer.state))
            with closing(trainer.events()) as events:
                for event in events:
                    if isinstance(event, CheckpointSaved):
                        saved_in.add(Path(event.path).parent)
                    elif isinstance(event, RunStarted):
                        self.warning = one_line("; ".join(filter(None, (*event.warnings, event.best_restarted))))
                    if self._buffer.put(event):
                        self._wake()
            if self._end_run is not None:
                self.exit_code = self._end_run()
        except OpeningStoppedError:
            self._buffer.add_log_line("stopped before the first step", "plain")
        except BaseException as error:
            self._failed(error)
        finally:
            self.kept = kept_files(request, saved_in)
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        """Post `Updated`, unless one is pending: the message queue of the app cannot fill up.

        After the app has closed, posting fails without consequence: the run still ends and saves.
        """
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):
                self._post(self.Updated())

    def _opening_progressed(self, words: str, share: float) -> None:
        if self._stop_request.stopping:
            raise OpeningStoppedError
        self.opening = (words, share)

    def _failed(self, error: BaseException) -> None:
        has_begun = self._trainer is not None
        if self._end_run is not None and (has_begun or isinstance(error, RankError)):
            self.fatal = error
        elif isinstance(error, GptError):
            missing_text = error.setting if isinstance(error, ResumeTextError) else ""
            self._fail(Failure(one_line(error.reason), isinstance(error, RunExistsError), missing_text))
        else:
            where = log_traceback(self._log_path, error)
            self._fail(Failure(f"{type(error).__name__}: {one_line(str(error), 200)} {where}"))

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._buffer.add_log_line(failure.message, "bad")


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not report it."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
