"""Reading run logs while they grow: new lines, a short summary, the complete run state."""

from __future__ import annotations

import math
import os
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gpt_core import files
from gpt_core.training.events import (
    EvalCompleted,
    FullEvalCompleted,
    RunContinued,
    RunFinished,
    RunPaused,
    RunStarted,
    StepCompleted,
    from_json_lines,
)
from gpt_core.training.metrics_log import MAX_LINE_BYTES
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_state import NO_LIMITS, Limits, RunState
from gpt_tui.shared.formatting import PART_MARK

READ_BYTES = 1 << 17
SCAN_BYTES = 1 << 19  # per read of a summary
END_BYTES = 1 << 16  # of the end of a log, from which its last step is read before the rest is scanned
FINGERPRINT_BYTES = 64  # of the last bytes read, by which a replaced file is detected
RARE_EVENTS = tuple(
    b'{"event":"%s"' % name for name in (b"started", b"eval", b"full_eval", b"paused", b"continued", b"finished")
)
STEP_EVENT = b'{"event":"step"'
RECENT_STEPS = 20  # whose median is the throughput of a run


class LogChunk(NamedTuple):
    """Result of a read.

    Attributes:
        lines: Complete lines only.
        restarted: The file is a new one, and these are its first lines: discard what was read before.
        at_end: Nothing is left but, at most, an incomplete line.
    """

    lines: bytes
    restarted: bool
    at_end: bool


class LogTail:
    """Reads a growing file of lines in chunks; detects truncation and replacement.

    An incomplete last line is left for a later read; a line longer than the maximum is skipped.

    Attributes:
        size: Bytes of the file at the last read.
        updated_at: Time of its last modification, in seconds since 1970.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.updated_at = 0.0
        self._identity = (0, 0)
        self._offset = 0
        self._fingerprint = b""

    def read(self, max_bytes: int = READ_BYTES) -> LogChunk:
        """Return the next chunk, of about `max_bytes` at most. Raises OSError if the file cannot be read."""
        with files.open_regular(self.path) as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            self.size, self.updated_at = status.st_size, status.st_mtime
            file.seek(max(0, self._offset - len(self._fingerprint)))
            same = identity == self._identity and file.read(len(self._fingerprint)) == self._fingerprint
            restarted = not same or self.size < self._offset
            if restarted:
                self._identity, self._offset, self._fingerprint = identity, 0, b""
            file.seek(self._offset)
            block = file.read(max_bytes)
            if b"\n" not in block and len(block) == max_bytes:
                block += file.read(MAX_LINE_BYTES)
        lines = block[: block.rfind(b"\n") + 1]
        consumed = len(lines) if lines or len(block) < MAX_LINE_BYTES else len(block)
        self._offset += consumed
        self._fingerprint = (self._fingerprint + block[:consumed])[-FINGERPRINT_BYTES:]
        return LogChunk(lines, restarted, self._offset + len(block) - consumed >= self.size)

    def last_lines(self, max_bytes: int) -> bytes:
        """Return the complete lines in the last `max_bytes`; the position of `read` stays. Raises OSError."""
        with files.open_regular(self.path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
            block = file.read(max_bytes)
        return block[block.find(b"\n") + 1 : block.rfind(b"\n") + 1]


class BestEvaluation(NamedTuple):
    """Scores of the best evaluation of a run; without an evaluation infinite, for the accuracy -1.

    They are of the complete eval text if it was scored at that step, else of `part_tokens` tokens of it (0: all).
    Until the trainer has reported a best one (`is_reported`), the lowest loss decides: a run without a best model has
    no other.
    """

    loss: float = math.inf
    accuracy: float = -1.0
    bits_per_byte: float = math.inf
    step: int = -1
    part_tokens: int = 0
    is_reported: bool = False

    @property
    def mark(self) -> str:
        """Mark of scores of a part of the eval text, "" for all of it."""
        return PART_MARK if self.part_tokens else ""


NO_EVALUATION = BestEvaluation()


@dataclass
class LogSummary:
    """Start, last steps, best scores, pause and end of a log, without decoding each of its lines.

    Until a long log is scanned completely (`is_complete`), `last`, `is_paused` and `finished` come from its end, and
    `best` has the best scores of the scanned part.
    """

    tail: LogTail
    started: RunStarted | None = None
    last: StepCompleted | None = None
    best: BestEvaluation = NO_EVALUATION
    is_paused: bool = False
    finished: RunFinished | None = None
    is_complete: bool = False
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))

    @property
    def tokens_per_s(self) -> float:
        """Median throughput of the last steps, NaN before one."""
        return statistics.median(self._rates) if self._rates else math.nan

    def scan(self, max_chunks: int = 1) -> None:
        """Scan new lines: all rare events, and the last steps. Raises OSError."""
        for _ in range(max_chunks):
            chunk = self.tail.read(SCAN_BYTES)
            if chunk.restarted:
                self.started, self.last, self.is_paused, self.finished = None, None, False, None
                self.best = NO_EVALUATION
                self._rates.clear()
            self._take(chunk.lines)
            self.is_complete = chunk.at_end
            if self.is_complete:
                return
        best_so_far = self.best
        self._take(self.tail.last_lines(END_BYTES))
        self.best = best_so_far

    def _take(self, lines: bytes) -> None:
        for event in from_json_lines(b"".join(summary_lines(lines))):
            match event:
                case RunStarted():
                    self.started, self.is_paused, self.finished = event, False, None
                    self._rates.clear()
                    if event.best_restarted:
                        self.best = NO_EVALUATION
                case StepCompleted():
                    self.last = event
                    self._rates.append(event.tokens_per_s)
                case EvalCompleted() if math.isfinite(event.bits_per_byte):
                    is_reported = event.is_best_after(self.best.accuracy)
                    if is_reported or (not self.best.is_reported and event.loss < self.best.loss):
                        part = self.started.eval_part_tokens if self.started else 0
                        scores = (event.loss, event.accuracy, event.bits_per_byte, event.step)
                        self.best = BestEvaluation(*scores, part, is_reported)
                case FullEvalCompleted() if math.isfinite(event.bits_per_byte) and self.best.step in (-1, event.step):
                    scores = (event.loss, event.accuracy, event.bits_per_byte, event.step)
                    self.best = BestEvaluation(*scores, is_reported=self.best.is_reported)
                case RunPaused():
                    self.is_paused = True
                case RunContinued():
                    self.is_paused = False
                case RunFinished():
                    self.finished = event


def summary_lines(lines: bytes) -> Iterator[bytes]:
    """Yield the lines of starts, evaluations and ends, and of the last steps, in order."""
    starts = {start for pattern in RARE_EVENTS for start in _line_starts(lines, pattern)}
    end = len(lines)
    for _ in range(RECENT_STEPS):
        end = lines.rfind(b"\n" + STEP_EVENT, 0, end)
        if end < 0 and not lines.startswith(STEP_EVENT):
            break
        starts.add(end + 1)
        if end < 0:
            break
    for start in sorted(starts):
        yield lines[start : lines.find(b"\n", start) + 1]


def _line_starts(lines: bytes, pattern: bytes) -> Iterator[int]:
    if lines.startswith(pattern):
        yield 0
    found = lines.find(b"\n" + pattern)
    while found >= 0:
        yield found + 1
        found = lines.find(b"\n" + pattern, found + 1)


class LogFollower:
    """Replays a log into a run state, chunk by chunk, while another process may write it.

    Memory is bounded whatever the log's length, and the work per call by the argument of `read`.

    Attributes:
        history: The run as far as it was read.
        at_end: The log was read to its end.
        problem: Why the log cannot be read, "" if it can; a missing log has no events and is no problem.
    """

    def __init__(self, path: Path, limits: Limits = NO_LIMITS) -> None:
        self._tail = LogTail(path)
        self._limits = limits
        self.history = RunState(limits=limits)
        self.at_end = False
        self.problem = ""

    def read(self, max_bytes: int = READ_BYTES) -> bool:
        """Read a chunk and return True if `history` has changed. A truncated or replaced log is read from its start."""
        before = self.history
        try:
            chunk = self._tail.read(max_bytes)
        except OSError as error:
            self.at_end = True
            self.problem = "" if isinstance(error, FileNotFoundError) else files.reason(error)
            return False
        self.at_end, self.problem = chunk.at_end, ""
        if chunk.restarted and before.logged + len(before.curve.recent):
            self.history = RunState(limits=self._limits)
        self.history = advance_all(self.history, from_json_lines(chunk.lines))
        return self.history is not before
