"""`metrics.jsonl`: the events of a run, one line of JSON each, as `--json` prints them.

Each line is one write to the end of the file, so that only the last line can be incomplete, for a reader or after a
crash. A line that cannot be written is skipped: training continues without it, and reports it once (`LogFailed`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gpt_core import files
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import ConfigError
from gpt_core.training.events import (
    LOGGED,
    AnyEvent,
    EvalCompleted,
    Event,
    FullEvalCompleted,
    PlanMade,
    SampleWritten,
    from_json,
    to_json,
)  # fmt: skip

MAX_LINE_BYTES = 8 << 20  # an event of a model with a thousand layers, with norms for each tensor, has about 2 MB
OPEN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | files.BINARY
_BLOCK = 1 << 18


class _Logged(msgspec.Struct):
    """The fields that every logged event has."""

    event: str
    step: int


_LOGGED = msgspec.json.Decoder(_Logged)
_OF_EVALUATION = {_kind.__struct_config__.tag for _kind in (EvalCompleted, FullEvalCompleted, SampleWritten, PlanMade)}


class MetricsLog:
    """The log of one run, open for writing.

    Attributes:
        path: The log.
        failure: Path and reason of the last line that could not be written, "" if there is none.
    """

    def __init__(
        self, path: Path | str, *, resume_step: int | None = None, evaluates: bool = False, before: Path | None = None
    ) -> None:
        """Create a new log, or append to the existing one, truncated to `resume_step`.

        A run that crashed after its last save has logged steps and evaluations that it will repeat: their lines, and
        incomplete ones, are dropped.

        Args:
            path: The log.
            resume_step: Last step of the existing log to keep; None for a new log.
            evaluates: The run will evaluate at `resume_step`: drop an evaluation of that step, its sample, its plan.
            before: Log to copy lines from instead of `path`; it is not changed.

        Raises:
            ConfigError: The log cannot be written.
        """
        self.path = Path(path)
        self.failure = ""
        try:
            if resume_step is None:
                files.replace_file(self.path, ())
            else:
                _cut(before or self.path, resume_step, evaluates, self.path)
            self._file: int | None = os.open(self.path, OPEN_FLAGS, 0o666)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {files.reason(error)}; set models_dir to another folder"
            ) from None
        self._torn = False

    def append(self, event: Event) -> bool:
        """Write the event's line, if events of its class are logged; return False if the write failed."""
        if not isinstance(event, LOGGED):
            return True
        if self._file is None:
            return False
        line = to_json(event) + b"\n"
        try:
            # ends a line that a full disk cut short, so that this one is readable
            files.write_all(self._file, b"\n" + line if self._torn else line)
            self._torn = False
        except OSError as error:
            self._torn = True
            self.failure = f"{self.path}: {files.reason(error)}"
            return False
        return True

    def restore(self) -> None:
        """Write the complete log again if its file was moved or removed; `failure` has the reason if that fails."""
        if self._file is None or os.path.lexists(self.path):
            return
        try:
            files.replace_file(self.path, _contents(self._file))
            moved, self._file = self._file, os.open(self.path, OPEN_FLAGS, 0o666)
            os.close(moved)
        except OSError as error:
            self.failure = f"{self.path}: {files.reason(error)}"

    def close(self) -> None:
        """Close the file; the operating system has all lines already."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _NoLog(MetricsLog):
    """A log that nothing is written to."""

    def __init__(self) -> None:
        self.path, self.failure, self._file, self._torn = Path(), "", None, False


NO_LOG: MetricsLog = _NoLog()
"""Log of a rank that does not report its events."""


def open_log(store: CheckpointStore, run_id: str, step: int, *, evaluates: bool = False) -> MetricsLog:
    """Open the log of a run that starts, or is resumed, at `step`, in the folder that `store` was prepared for.

    `evaluates`: the run begins with the evaluation of that step, which was interrupted.

    Raises:
        ConfigError: The folder or the log cannot be written.
    """
    start = store.begin_run(run_id, step)
    evaluates = evaluates and start.resume_step == step
    return MetricsLog(store.metrics_path, resume_step=start.resume_step, evaluates=evaluates, before=start.before)


def read_metrics(path: Path | str) -> Iterator[AnyEvent]:
    """Yield the events of a log in order, in bounded memory; incomplete and unknown lines are skipped.

    A log that does not exist has no events. Raises ConfigError if it cannot be read.
    """
    try:
        for line in _lines(path):
            try:
                yield from_json(line)
            except (ValueError, RecursionError):
                continue
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {files.reason(error)}") from None


def _cut(path: Path, last_step: int, evaluates: bool, into: Path) -> None:
    """Make `into` the complete lines of `path` up to `last_step`; the file is replaced atomically, if at all."""
    try:
        if path != into or sum(map(len, _kept_lines(path, last_step, evaluates))) != path.stat().st_size:
            files.replace_file(into, _blocks(_kept_lines(path, last_step, evaluates)))
    except FileNotFoundError:
        return


def _kept_lines(path: Path, last_step: int, evaluates: bool) -> Iterator[bytes]:
    for line in _lines(path):
        try:
            logged = _LOGGED.decode(line)
        except (ValueError, RecursionError):
            continue
        is_repeated = evaluates and logged.step == last_step and logged.event in _OF_EVALUATION
        if line.endswith(b"\n") and logged.step <= last_step and not is_repeated:
            yield line


def _contents(descriptor: int) -> Iterator[bytes]:
    """Yield the bytes of an open file from its start; later writes append, wherever this stops."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while block := os.read(descriptor, _BLOCK):
        yield block


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in fewer, larger pieces."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _lines(path: Path | str) -> Iterator[bytes]:
    """Yield every line with its newline; lines longer than MAX_LINE_BYTES are skipped. Raises OSError."""
    with files.open_regular(path) as file, io.BufferedReader(file, _BLOCK) as reader:
        skipping = False
        while line := reader.readline(MAX_LINE_BYTES):
            is_complete = line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
            if is_complete and not skipping:
                yield line
            skipping = not is_complete
