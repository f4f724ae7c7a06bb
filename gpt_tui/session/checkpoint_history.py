"""History of a run up to its checkpoint, from the log beside it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path, PurePath

from gpt_core.run_files import METRICS
from gpt_core.training.events import CheckpointSaved
from gpt_core.training.metrics_log import read_metrics
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_state import RunState

BATCH = 4096  # events between two reports
MAX_HELD = 2  # of the two models of a comparison


class CheckpointHistories:
    """The last `MAX_HELD` histories that were read; that of a log that has changed is read again."""

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], RunState | None] = {}

    def of(self, path: Path, step: int, read: Callable[[], object] = lambda: None) -> RunState | None:
        """Return what `history_of` returns."""
        try:
            log = (path.parent / METRICS).stat()
        except OSError:
            return history_of(path, step, read)  # no history, or a line that says why
        key = (path, step, log.st_dev, log.st_ino, log.st_size, log.st_mtime_ns)
        if key not in self._held:
            found = history_of(path, step, read)
            while len(self._held) >= MAX_HELD:
                del self._held[next(iter(self._held))]
            self._held[key] = found
        return self._held[key]


def history_of(path: Path, step: int, read: Callable[[], object] = lambda: None) -> RunState | None:
    """Return the state of the run that saved a checkpoint, None if the log beside the file is not of that run.

    It is the log of the run if it says that this file was saved at this step.

    Args:
        path: The checkpoint.
        step: Its step.
        read: Called after each part of the log; may raise to end the reading.

    Raises:
        ConfigError: The log cannot be read.
    """
    events, run, is_own = read_metrics(path.parent / METRICS), RunState(), False
    while batch := list(islice(events, BATCH)):
        run = advance_all(run, batch)
        is_own = is_own or any(
            isinstance(event, CheckpointSaved) and event.step == step and PurePath(event.path).name == path.name
            for event in batch
        )
        read()
    return run if is_own else None
