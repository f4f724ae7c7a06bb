"""`metrics.jsonl`: the run's events, one line of JSON each, the same lines as `--json` prints.

Each line is one write to the end of the file, so that a reader, and a crash, meet at most one torn line, the last. A
line that cannot be written is counted and not mourned: training is worth more than its log.
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
from gpt_core.training.events import LOGGED, AnyEvent, Event, from_json, to_json

MAX_LINE_BYTES = 8 << 20  # an event of a model with a thousand layers, with norms for each tensor, has about 2 MB
OPEN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | files.BINARY
_BLOCK = 1 << 18


class _Step(msgspec.Struct):
    """The one field that every logged event has."""

    step: int


_STEP = msgspec.json.Decoder(_Step)


class MetricsLog:
    """The log of one run, open for writing.

    `lost` counts the lines that could not be written and `failure` says why, "" as long as all went well.
    """

    def __init__(self, path: Path | str, *, resume_step: int | None = None, before: Path | None = None) -> None:
        """Starts a new log, or goes on with the one that is there, cut back to `resume_step`.

        A run that died after its last save has logged steps that it will take again: their lines, and torn ones, are
        dropped. With `before` that log is read instead, and stays. Raises ConfigError where the log cannot be written.
        """
        self.path = Path(path)
        self.lost = 0
        self.failure = ""
        try:
            if resume_step is None:
                files.replace_file(self.path, ())
            else:
                _cut(before or self.path, resume_step, self.path)
            self._file: int | None = os.open(self.path, OPEN_FLAGS, 0o666)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {files.reason(error)}; choose another --models-dir"
            ) from None
        self._torn = False

    def append(self, event: Event) -> bool:
        """Writes the event's line, if it is one that is logged; False if it should have been written and was not."""
        if not isinstance(event, LOGGED):
            return True
        if self._file is None:
            return False
        line = to_json(event) + b"\n"
        try:
            # ends what is left of a line that was cut short by a full disk, so that this one stays readable
            files.write_all(self._file, b"\n" + line if self._torn else line)
            self._torn = False
        except OSError as error:
            self._torn = True
            self.lost += 1
            self.failure = f"{self.path}: {files.reason(error)}"
            return False
        return True

    def restore(self) -> None:
        """Write the whole log again where its file was moved or removed; a failure is noted in `failure`."""
        if self._file is None or os.path.lexists(self.path):
            return
        try:
            files.replace_file(self.path, _contents(self._file))
            moved, self._file = self._file, os.open(self.path, OPEN_FLAGS, 0o666)
            os.close(moved)
        except OSError as error:
            self.failure = f"{self.path}: {files.reason(error)}"

    def close(self) -> None:
        """Ends the log; what was written is with the operating system already."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def open_log(store: CheckpointStore, run_id: str, step: int) -> MetricsLog:
    """Open the log of a run that starts, or is resumed, at `step`, in the folder that `store` was prepared for.

    Raises:
        ConfigError: The folder or the log cannot be written.
    """
    start = store.begin_run(run_id, step)
    return MetricsLog(store.metrics_path, resume_step=start.resume_step, before=start.before)


def read_metrics(path: Path | str) -> Iterator[AnyEvent]:
    """The events of a log, in order and in bounded memory; torn and foreign lines are left out.

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


def _cut(path: Path, last_step: int, into: Path) -> None:
    """Make `into` the whole lines of `path` of steps up to `last_step`; it is replaced as a whole, if it must be."""
    try:
        if path != into or sum(map(len, _kept_lines(path, last_step))) != path.stat().st_size:
            files.replace_file(into, _blocks(_kept_lines(path, last_step)))
    except FileNotFoundError:
        return


def _kept_lines(path: Path, last_step: int) -> Iterator[bytes]:
    for line in _lines(path):
        try:
            if line.endswith(b"\n") and _STEP.decode(line).step <= last_step:
                yield line
        except (ValueError, RecursionError):
            continue


def _contents(descriptor: int) -> Iterator[bytes]:
    """The bytes of an open file from its beginning; writing goes on at its end, wherever this stops."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while block := os.read(descriptor, _BLOCK):
        yield block


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer, larger pieces."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _lines(path: Path | str) -> Iterator[bytes]:
    """Every line with its line end; those longer than the bound are passed over. Raises OSError."""
    with files.open_regular(path) as file, io.BufferedReader(file, _BLOCK) as reader:
        skipping = False
        while line := reader.readline(MAX_LINE_BYTES):
            whole = line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
            if whole and not skipping:
                yield line
            skipping = not whole
