"""What a run's log says in short, found out without decoding each of its lines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gpt_core.training.events import EvalCompleted, RunFinished, RunStarted, StepCompleted, from_json_lines
from gpt_tui.tabs.runs.log_tail import LogTail

SCAN_BYTES = 1 << 19
END_BYTES = 1 << 16
RARE = tuple(b'{"event":"%s"' % name for name in (b"started", b"eval", b"finished"))
STEP = b'{"event":"step"'


@dataclass
class LogSummary:
    """What a log says in short, kept up as it grows; `read_on` looks only at what is new.

    Until all of a long log was looked at (`is_whole`), `last` and `finished` are taken from its end, and `best_bits` is
    the best of the part that was.
    """

    tail: LogTail
    started: RunStarted | None = None
    last: StepCompleted | None = None
    best_bits: float = math.inf
    finished: RunFinished | None = None
    is_whole: bool = False

    def read_on(self, most_pieces: int = 1) -> None:
        """Looks at some new lines: at the rare ones all, of the steps only at the last. Raises OSError."""
        for _ in range(most_pieces):
            piece = self.tail.read(SCAN_BYTES)
            if piece.anew:
                self.started, self.last, self.best_bits, self.finished = None, None, math.inf, None
            self._take(piece.lines)
            self.is_whole = piece.at_end
            if self.is_whole:
                return
        self._take(self.tail.last_lines(END_BYTES))

    def _take(self, lines: bytes) -> None:
        for event in from_json_lines(b"".join(telling_lines(lines))):
            match event:
                case RunStarted():
                    self.started, self.finished = event, None
                case StepCompleted():
                    self.last = event
                case EvalCompleted(bits_per_byte=bits) if math.isfinite(bits):
                    self.best_bits = min(self.best_bits, bits)
                case RunFinished():
                    self.finished = event


def telling_lines(lines: bytes) -> Iterator[bytes]:
    """The lines that tell of a start, an evaluation or an end, in order, and the last step's line."""
    starts = {start for pattern in RARE for start in _line_starts(lines, pattern)}
    if (last := lines.rfind(b"\n" + STEP)) >= 0 or lines.startswith(STEP):
        starts.add(last + 1)
    for start in sorted(starts):
        yield lines[start : lines.find(b"\n", start) + 1]


def _line_starts(lines: bytes, pattern: bytes) -> Iterator[int]:
    if lines.startswith(pattern):
        yield 0
    found = lines.find(b"\n" + pattern)
    while found >= 0:
        yield found + 1
        found = lines.find(b"\n" + pattern, found + 1)
