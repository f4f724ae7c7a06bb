"""A run's log, read into a history a piece at a time while it grows: a run of another process can be followed by it."""

from __future__ import annotations

from pathlib import Path

from gpt_core import files
from gpt_core.training.events import from_json_lines
from gpt_tui.session.run_state import NO_LIMITS, Limits, RunState, advance_all
from gpt_tui.tabs.runs.log_tail import PIECE_BYTES, LogTail


class LogFollower:
    """`history` is the run as far as it was read; `at_end` says whether that is all there is.

    Bounded in memory, whatever the log's length, and bounded in work by what `read` is given. `problem` is why the log
    cannot be read, "" while it can; a log that is not there yet has no events.
    """

    def __init__(self, path: Path, limits: Limits = NO_LIMITS) -> None:
        self._tail = LogTail(path)
        self._limits = limits
        self.history = RunState(limits=limits)
        self.at_end = False
        self.problem = ""

    def read(self, most_bytes: int = PIECE_BYTES) -> bool:
        """Reads on; True if the history is another one now. A log that was cut back or replaced begins anew."""
        before = self.history
        try:
            piece = self._tail.read(most_bytes)
        except OSError as error:
            self.at_end = True
            self.problem = "" if isinstance(error, FileNotFoundError) else files.reason(error)
            return False
        self.at_end, self.problem = piece.at_end, ""
        if piece.anew and before.logged + len(before.curve.recent):
            self.history = RunState(limits=self._limits)
        self.history = advance_all(self.history, from_json_lines(piece.lines))
        return self.history is not before
