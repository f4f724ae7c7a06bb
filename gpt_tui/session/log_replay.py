"""Replay of `metrics.jsonl`: the earlier steps, evaluations and samples of a resumed run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gpt_core.training.events import (
    AnyEvent,
    EvalCompleted,
    FullEvalCompleted,
    LinesReproduced,
    SampleWritten,
    StepCompleted,
)
from gpt_core.training.metrics_log import read_metrics
from gpt_tui.session.run_state import RunState, advance_all

BATCH = 4096


def replay_log(run: RunState, path: Path, last_step: int) -> RunState:
    """Return the state with the events of a log up to `last_step`. The log lines of the state stay as they are.

    Memory is bounded, whatever the length of the file.

    Raises:
        ConfigError: The file exists and cannot be read.
    """
    events = _up_to(last_step, read_metrics(path))
    replayed = run
    while batch := list(islice(events, BATCH)):
        replayed = advance_all(replayed, batch)
    return replace(replayed, log=run.log, logged=run.logged)


def _up_to(last_step: int, events: Iterable[AnyEvent]) -> Iterator[AnyEvent]:
    replayed = StepCompleted | EvalCompleted | FullEvalCompleted | LinesReproduced | SampleWritten
    return (event for event in events if isinstance(event, replayed) and event.step <= last_step)
