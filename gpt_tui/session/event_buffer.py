"""Event buffer between the training thread and the event loop of the app."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from gpt_core.training.events import AnyEvent, EvalProgressed, StepCompleted
from gpt_tui.session.run_events import advance_all, with_line
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.rows import Tone

MAX_PENDING = 4096
MAX_NOTABLE = 256


class Drained(NamedTuple):
    """Result of a drain.

    Attributes:
        run: The state after every event so far.
        notable: New events other than steps and evaluation progress.
        changed: True if there was a new event.
    """

    run: RunState
    notable: tuple[AnyEvent, ...]
    changed: bool


class EventBuffer:
    """Takes events in one thread and returns the run state in another; each event is applied exactly once.

    Memory is bounded: when MAX_PENDING events are pending, `put` applies them to the state itself.
    """

    def __init__(self, run: RunState, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._run = run
        self._pending: list[AnyEvent] = []
        self._notable: list[AnyEvent] = []

    def begin(self, run: RunState) -> None:
        """Replace the state before the first event: a resumed run has an earlier part."""
        with self._lock:
            self._run = run

    def put(self, event: AnyEvent) -> bool:
        """Add an event. Return True if it should be shown at once."""
        with self._lock:
            self._pending.append(event)
            if len(self._pending) >= MAX_PENDING:
                self._apply_pending()
            if isinstance(event, StepCompleted | EvalProgressed):
                return False
            self._notable.append(event)
            del self._notable[:-MAX_NOTABLE]
            return True

    def add_log_line(self, text: str, tone: Tone) -> None:
        """Add a line to the log of the run."""
        with self._lock:
            self._apply_pending()
            self._run = with_line(self._run, text, tone)

    def drain(self) -> Drained:
        """Return the state with all pending events applied."""
        with self._lock:
            before = self._run
            self._apply_pending()
            notable, self._notable = tuple(self._notable), []
            return Drained(self._run, notable, bool(notable) or self._run is not before)

    def _apply_pending(self) -> None:
        if self._pending:
            self._run = advance_all(self._run, self._pending, self._clock())
            self._pending = []
