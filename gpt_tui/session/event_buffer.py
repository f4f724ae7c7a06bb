"""Between the thread that trains and the loop that shows: here events wait, and become a history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from gpt_core.training.events import AnyEvent, EvalProgressed, StepCompleted
from gpt_tui.session.run_state import RunState, Tone, advance_all, noted

MOST_WAITING = 4096
MOST_NOTABLE = 256


class Drained(NamedTuple):
    """What was new: the history with every event so far, and those of the new events that are not steps."""

    history: RunState
    notable: tuple[AnyEvent, ...]
    changed: bool


class EventBuffer:
    """Takes events from one thread and gives a history to another; each event reaches the history exactly once.

    Bounded: when MOST_WAITING events wait because nobody drains, the thread that puts folds them into the history.
    """

    def __init__(self, history: RunState, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._history = history
        self._waiting: list[AnyEvent] = []
        self._notable: list[AnyEvent] = []

    def begin(self, history: RunState) -> None:
        """Before the first event: what is known of the run already, if it is a resumed one."""
        with self._lock:
            self._history = history

    def put(self, event: AnyEvent) -> bool:
        """Adds an event. True if it is one that the user should see at once."""
        with self._lock:
            self._waiting.append(event)
            if len(self._waiting) >= MOST_WAITING:
                self._fold()
            if isinstance(event, StepCompleted | EvalProgressed):
                return False
            self._notable.append(event)
            del self._notable[:-MOST_NOTABLE]
            return True

    def note(self, text: str, tone: Tone) -> None:
        """Adds a line to the history's log."""
        with self._lock:
            self._fold()
            self._history = noted(self._history, text, tone)

    def drain(self) -> Drained:
        """The history with all that waited folded in."""
        with self._lock:
            before = self._history
            self._fold()
            notable, self._notable = tuple(self._notable), []
            return Drained(self._history, notable, bool(notable) or self._history is not before)

    def _fold(self) -> None:
        if self._waiting:
            self._history = advance_all(self._history, self._waiting, self._clock())
            self._waiting = []
