"""Replay of `metrics.jsonl`: the earlier steps, evaluations and samples of a resumed run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gpt_core.errors import GptError
from gpt_core.formats.training_state import TrainingState
from gpt_core.training import events as ev
from gpt_core.training.metrics_log import read_metrics
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_state import RunState, Score

BATCH = 4096


def with_earlier_part(run: RunState, log: Path | None, state: TrainingState) -> RunState:
    """Return the state with the earlier part of a resumed run: the steps in its log, its train loss and its scores.

    The train loss (smoothed) is that of the checkpoint: a log may lack steps, or be in another folder.

    Args:
        run: State before the first event.
        log: Log of the earlier steps, None if there is none.
        state: Training state of the checkpoint.
    """
    if log is not None:
        with suppress(GptError):
            run = replay_log(run, log, state.step)
    if state.train_loss is not None:
        run = replace(run, curve=replace(run.curve, smoothed=state.train_loss, count=state.averaged_steps))
    best = Score(
        state.best_accuracy, state.best_step, state.evaluations_without_improvement, state.best_loss,
        state.patience_from,
    )  # fmt: skip
    return replace(run, best=best, first_scores=state.start_scores)


def replay_log(run: RunState, path: Path, last_step: int) -> RunState:
    """Return the state with the events of a log up to `last_step`. Its log lines and first event stay as they are.

    Memory is bounded, whatever the length of the file.

    Raises:
        ConfigError: The file exists and cannot be read.
    """
    events = _up_to(last_step, read_metrics(path))
    replayed = run
    while batch := list(islice(events, BATCH)):
        replayed = advance_all(replayed, batch)
    return replace(replayed, started=run.started, log=run.log, logged=run.logged)


def _up_to(last_step: int, events: Iterable[ev.AnyEvent]) -> Iterator[ev.AnyEvent]:
    replayed = (
        ev.RunStarted | ev.BaselinesMeasured | ev.StepCompleted | ev.EvalCompleted | ev.FullEvalCompleted
        | ev.LinesReproduced | ev.SampleWritten | ev.HeadsScored | ev.HealthMeasured | ev.InductionHeadAppeared
    )  # fmt: skip
    return (event for event in events if isinstance(event, replayed) and event.step <= last_step)
