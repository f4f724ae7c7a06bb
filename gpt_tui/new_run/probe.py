"""Finds out, in a thread, what the set-up screen cannot compute: the tokens of a text, the time of a step,
and what is in the folder already.

One look at a time: another question ends the one before, and a timing has the machine for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from textual.message import Message

from gpt_core.bench.estimate import CorpusStats, StepTime, estimate_memory, read_corpus_stats, window_length
from gpt_core.bench.hardware import free_memory
from gpt_core.bench.step_timing import measure_step_time
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.errors import GptError
from gpt_core.kernels import available_cores, threads
from gpt_tui.new_run.estimate import memory_problem
from gpt_tui.session.run_preview import existing_run
from gpt_tui.shared.sanitize import one_line

WAIT_S = 0.4  # for the typing to come to rest

Stopped = Callable[[], bool]


def timed(settings: Settings, stopped: Stopped) -> StepTime | None:
    """`measure_step_time` on the threads that a run would have."""
    threads.set_threads(threads_of(settings))
    return measure_step_time(settings, stopped=stopped)


def threads_of(settings: Settings) -> int:
    """Threads that a run with these settings computes on."""
    return settings.threads or available_cores()


class Probes(NamedTuple):
    """How things are found out; tests put others in."""

    texts: Callable[[Settings], CorpusStats] = read_corpus_stats
    time: Callable[[Settings, Stopped], StepTime | None] = timed
    free_memory: Callable[[], int | None] = free_memory
    wait_s: float = WAIT_S
    in_the_way: Callable[[str], str] = existing_run


class FolderSeen(Message, bubble=False):
    """The models folder of request `number` was read.

    Attributes:
        in_the_way: The run that a new one would replace, "" for none.
    """

    def __init__(self, number: int, models_dir: str, in_the_way: str) -> None:
        super().__init__()
        self.number = number
        self.models_dir = models_dir
        self.in_the_way = in_the_way


class TextsRead(Message, bubble=False):
    """The texts of request `number` were read; `problem` says why not."""

    def __init__(self, number: int, texts: CorpusStats | None, problem: str = "") -> None:
        super().__init__()
        self.number = number
        self.texts = texts
        self.problem = problem


class StepTimed(Message, bubble=False):
    """A step of request `number` was timed; `problem` says why not."""

    def __init__(self, number: int, time: StepTime | None, problem: str = "") -> None:
        super().__init__()
        self.number = number
        self.step_time = time
        self.problem = problem


class Prober:
    """`ask` looks; what is found comes as FolderSeen, TextsRead and StepTimed with the number of the question."""

    def __init__(self, probes: Probes, post: Callable[[Message], object]) -> None:
        self._probes = probes
        self._post = post
        self._number = 0
        self._stopped = threading.Event()
        self._timing = threading.Lock()
        self._known: dict[tuple[object, ...], StepTime] = {}

    def known_time(self, settings: Settings) -> StepTime | None:
        """The time of a step, where it was found out before."""
        return self._known.get(timing_key(settings))

    def ask(self, settings: Settings) -> int:
        """Looks at a run's folder, text and speed; the number of the question."""
        self.cancel()
        self._number += 1
        self._stopped = threading.Event()
        # a daemon: the program need not wait for a pass to end
        threading.Thread(target=self._look, args=(settings, self._number, self._stopped), daemon=True).start()
        return self._number

    def cancel(self) -> None:
        """Ends the look that is under way, after its present pass."""
        self._stopped.set()

    def _look(self, settings: Settings, number: int, stopped: threading.Event) -> None:
        if stopped.wait(self._probes.wait_s):
            return
        self._post(FolderSeen(number, settings.models_dir, self._probes.in_the_way(settings.models_dir)))
        try:
            self._post(TextsRead(number, self._probes.texts(settings)))
        except (GptError, OSError) as error:
            self._post(TextsRead(number, None, one_line(str(error))))
        words = memory_problem(estimate_memory(settings, threads_of(settings)), self._probes.free_memory())
        if words:
            self._post(StepTimed(number, None, words))
        elif self.known_time(settings) is None:
            self._time(settings, number, stopped)

    def _time(self, settings: Settings, number: int, stopped: threading.Event) -> None:
        with self._timing:
            if stopped.is_set():
                return
            try:
                time = self._probes.time(settings, stopped.is_set)
            except MemoryError:
                self._post(StepTimed(number, None, "not timed: there is not enough memory"))
                return
            except Exception as error:
                self._post(StepTimed(number, None, f"not timed: {one_line(f'{type(error).__name__}: {error}', 200)}"))
                return
        if time is not None:
            self._known[timing_key(settings)] = time
            self._post(StepTimed(number, time))


def timing_key(settings: Settings) -> tuple[object, ...]:
    """What the time of a step depends on."""
    shape = tuple(getattr(settings, name) for name in ModelShape.__struct_fields__)
    return (*shape, settings.batch_size, settings.micro_batch, window_length(settings), settings.threads)
