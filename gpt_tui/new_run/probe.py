"""Probe of a run: finds the tokens of the text, the time per step and an existing run in a thread, for its estimate.

A new request stops the one before it. Only one thread measures at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from textual.message import Message

from gpt_core.bench.estimate import CorpusStats, StepTime, read_corpus_stats
from gpt_core.bench.hardware import free_memory
from gpt_core.bench.step_timing import STEP_TIMES, StepTimes
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError, GptError, reason_of
from gpt_core.kernels import compute_threads
from gpt_core.training.request import RunRequest
from gpt_tui.new_run.estimate import RunEstimate, estimate_after, memory_here, memory_problem
from gpt_tui.session.run_preview import existing_run
from gpt_tui.shared.sanitize import one_line

MEASURING = "timing a few steps on this computer …"
WAIT_S = 0.4  # pause in typing after which a probe starts

IsStopped = Callable[[], bool]


class Budget(Protocol):
    """Function that returns a new run with a time budget, whose settings follow from it."""

    def __call__(self, minutes: float, typed: Mapping[str, str] = ..., preset_name: str = "") -> RunRequest:
        """Return the run. `typed` are settings that stay as they are; so does a preset."""


class Probes(NamedTuple):
    """Functions of a probe; tests replace them.

    Attributes:
        texts: Returns the statistics of the texts.
        time: Measures the time per step; None if stopped.
        free_memory: Returns the available memory in bytes, None if unknown.
        wait_s: Pause in typing after which a probe starts.
        existing_run: Returns the run that a new one in a folder would replace, "" for none.
        budget: Returns the new run for a number of minutes, None where its settings do not follow from the time.
        hosts: Host of each rank that trains; empty for one process.
    """

    texts: Callable[[Settings], CorpusStats] = read_corpus_stats
    time: Callable[[Settings, IsStopped], StepTime | None] = STEP_TIMES
    free_memory: Callable[[], int | None] = free_memory
    wait_s: float = WAIT_S
    existing_run: Callable[[str], str] = existing_run
    budget: Budget | None = None
    hosts: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """Number of ranks that train."""
        return max(1, len(self.hosts))


class BudgetChosen(Message, bubble=False):
    """The run for a time budget, as `choose` has returned it; `problem` says why not."""

    def __init__(self, choose: Callable[[], RunRequest], request: RunRequest | None, problem: str = "") -> None:
        super().__init__()
        self.choose = choose
        self.request = request
        self.problem = problem


def choose_in_thread(choose: Callable[[], RunRequest], post: Callable[[Message], object]) -> None:
    """Measure this machine for a time budget in a thread, which posts BudgetChosen."""

    def run() -> None:
        try:
            chosen = BudgetChosen(choose, choose())
        except Exception as error:
            chosen = BudgetChosen(choose, None, one_line(reason_of(error) or type(error).__name__))
        post(chosen)

    # a daemon thread, so that the program exits without waiting for the measurement
    threading.Thread(target=run, daemon=True).start()


class EstimateChanged(Message, bubble=False):
    """The estimate of a prober has changed. Posted by its thread."""


class Prober:
    """Estimates a run in a thread, which posts EstimateChanged after each result.

    Args:
        probes: Functions to call.
        post: Receives the messages, in the thread of the probe.
    """

    def __init__(self, probes: Probes, post: Callable[[Message], object]) -> None:
        self._probes = probes
        self._post = post
        self._estimate = RunEstimate()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        """Held while the estimate or its request changes, so that a request has no results of the one before."""
        self._timing_lock = threading.Lock()
        self._times = probes.time if isinstance(probes.time, StepTimes) else StepTimes(probes.time)

    @property
    def estimate(self) -> RunEstimate:
        """The estimate as far as it is known, of no run after `clear`."""
        return self._estimate

    def start(self, settings: Settings) -> None:
        """Estimate a run, unless it is the one of the last request and that was not stopped.

        What is known already is kept: statistics of the same texts, the time per step if it was measured before.
        """
        if settings == self._estimate.settings and not self._stopped.is_set():
            return
        with self._lock:
            self._stopped.set()
            stopped = self._stopped = threading.Event()
            self._estimate = estimate_after(self._estimate, settings)._replace(
                threads=compute_threads(settings.threads), free_bytes=self._probes.free_memory(),
                time=self._times.known(settings), hosts=self._probes.hosts,
            )  # fmt: skip
        # a daemon thread, so that the program exits without waiting for a pass
        threading.Thread(target=self._probe, args=(settings, stopped), daemon=True).start()

    def cancel(self) -> None:
        """Stop the probe in progress after its current pass; the next request starts it again."""
        with self._lock:
            self._stopped.set()

    def clear(self) -> None:
        """Stop the probe in progress, and discard the estimate."""
        with self._lock:
            self._stopped.set()
            self._estimate = RunEstimate()

    def _found(self, stopped: threading.Event, **results: Any) -> None:
        """Add results to the estimate, unless their request was stopped."""
        with self._lock:
            if stopped.is_set():
                return
            self._estimate = self._estimate._replace(**results)
        self._post(EstimateChanged())

    def _probe(self, settings: Settings, stopped: threading.Event) -> None:
        if stopped.wait(self._probes.wait_s):
            return
        self._found(stopped, existing_run=self._probes.existing_run(settings.models_dir))
        texts, texts_problem, setting = None, "", ""
        try:
            texts = self._probes.texts(settings)
        except (GptError, OSError) as error:
            texts_problem = one_line(reason_of(error))
            setting = "init_from" if isinstance(error, CheckpointError) else getattr(error, "setting", "train_file")
        except Exception as error:
            texts_problem, setting = one_line(f"{type(error).__name__}: {error}", 200), "train_file"
        self._found(stopped, texts=texts, texts_problem=texts_problem, unusable=setting)
        needed = memory_here(settings, compute_threads(settings.threads), texts, self._probes.hosts).total
        problem = memory_problem(needed, self._probes.free_memory())
        if problem:
            self._found(stopped, time=None, time_problem=problem)
        else:
            self._time(settings, stopped)

    def _time(self, settings: Settings, stopped: threading.Event) -> None:
        with self._timing_lock:
            if stopped.is_set():
                return
            time, problem = None, ""
            try:
                time = self._times(settings, stopped.is_set)
            except MemoryError:
                problem = "not timed: not enough memory"
            except Exception as error:
                problem = f"not timed: {one_line(f'{type(error).__name__}: {error}', 200)}"
        self._found(stopped, time=time, time_problem=problem)
