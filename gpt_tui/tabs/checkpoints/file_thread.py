"""Thread that reads or writes one file at low priority, and can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from gpt_core.errors import GptError
from gpt_core.thread_priority import lower_priority
from gpt_tui.shared.thread_priority import CHECKING

PROGRESS_STEP = 0.01  # fraction of the work between two reports

Result = TypeVar("Result")


class StoppedError(Exception):
    """Raised inside the work of a thread that was stopped."""


class FileThread(threading.Thread, Generic[Result]):
    """Base class of threads that work on one file at low priority.

    Args:
        name: Name of the thread.
        failure: Begins the message about an unexpected error.
        on_progress: Called with the fraction that is done.
        on_end: Called with the result of `work`, or with the error as one line.
        daemon: True if the program exits without waiting for the thread.

    Both callbacks are called in this thread, and not after `stop`.
    """

    def __init__(
        self,
        name: str,
        failure: str,
        on_progress: Callable[[float], object],
        on_end: Callable[[Result | str], object],
        *,
        daemon: bool,
    ) -> None:
        super().__init__(name=name, daemon=daemon)
        self.progress = 0.0
        """The fraction that was reported last"""
        self._failure = failure
        self._on_progress = on_progress
        self._on_end = on_end
        self._stopped = threading.Event()

    def work(self) -> Result:
        """Do the work, and call `report` after each part of it."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop after the current part of the work. Nothing more is reported."""
        self._stopped.set()

    def run(self) -> None:
        """Do the work and report its outcome."""
        lower_priority(CHECKING)
        outcome: Result | str
        try:
            outcome = self.work()
        except StoppedError:
            return
        except GptError as error:
            outcome = error.reason
        except Exception as unexpected:
            outcome = f"{self._failure}: {type(unexpected).__name__}: {unexpected}"
        if not self._stopped.is_set():
            with suppress(RuntimeError):  # the app has ended
                self._on_end(outcome)

    def report(self, fraction: float) -> None:
        """Report the fraction that is done. Raises StoppedError after `stop`."""
        if self._stopped.is_set():
            raise StoppedError
        if fraction - self.progress >= PROGRESS_STEP:
            self.progress = fraction
            with suppress(RuntimeError):
                self._on_progress(fraction)
