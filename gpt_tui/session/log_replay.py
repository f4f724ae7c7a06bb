"""A run's earlier sessions, read back from `metrics.jsonl`, so that the curves of a resumed run are whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gpt_core.training.events import AnyEvent, EvalCompleted, SampleWritten, StepCompleted
from gpt_core.training.metrics_log import read_metrics
from gpt_tui.session.run_state import RunState, advance_all

BATCH = 4096


def replayed(history: RunState, path: Path, last_step: int) -> RunState:
    """The history with the log's steps, evaluations and samples up to `last_step`; its own log lines stay as they are.

    Memory is bounded, whatever the file's length. Raises ConfigError if the file is there and cannot be read.
    """
    events = _up_to(last_step, read_metrics(path))
    grown = history
    while batch := list(islice(events, BATCH)):
        grown = advance_all(grown, batch)
    return replace(grown, log=history.log, logged=history.logged)


def _up_to(last_step: int, events: Iterable[AnyEvent]) -> Iterator[AnyEvent]:
    wanted = StepCompleted | EvalCompleted | SampleWritten
    return (event for event in events if isinstance(event, wanted) and event.step <= last_step)
