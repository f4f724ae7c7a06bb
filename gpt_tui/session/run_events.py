"""The effect of each event on the state of a run.

Pure: no clock, no thread, no widget. Memory is bounded: the curve is thinned, and evaluations, samples and log lines
have a maximum number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import PurePath
from typing import TypeVar, assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core.formats.training_state import Plan
from gpt_core.model.scores import EvalScores
from gpt_core.training import events as ev
from gpt_core.training.metrics import BUILT_IN, Metric, added_metrics
from gpt_tui.session.baseline_text import baselines_text
from gpt_tui.session.curve import HIGH, Curve, places
from gpt_tui.session.exchange_text import awaited_text, exchange_text
from gpt_tui.session.outcome_text import (
    divergence,
    full_scores,
    induction_text,
    log_failure,
    verdict,
    verdict_tone,
)
from gpt_tui.session.overfitting_text import MIN_PASSES, UsedUp, too_small_text
from gpt_tui.session.run_state import Evaluation, LogLine, RunState, Sample, Saved, Score
from gpt_tui.session.run_text import advice, end_text, has_learned
from gpt_tui.session.start_text import started_text, text_sample
from gpt_tui.session.stats_history import HeadsPoint, HealthPoint, Place, heads_point, health_point, induction_mark
from gpt_tui.shared.formatting import integer, scores_text
from gpt_tui.shared.rows import Tone

Item = TypeVar("Item")
Measured = TypeVar("Measured", HeadsPoint, HealthPoint)

MAX_EVALUATIONS = 512
MAX_SAMPLES = 200
MAX_STATS = 256  # points of the heads and of the health
MAX_LOG_LINES = 400
STEP_CURVES = tuple(metric for metric in BUILT_IN if metric.name in ("learning_rate", "grad_norm", "throughput"))


def advance_all(run: RunState, events: Sequence[ev.AnyEvent], at_s: float = 0.0) -> RunState:
    """Return the state after events, in order. Consecutive steps are added at once, which is much cheaper."""
    for are_steps, group in groupby(events, key=lambda event: isinstance(event, ev.StepCompleted)):
        if are_steps:
            steps = [event for event in group if isinstance(event, ev.StepCompleted)]
            run = _with_steps(run, steps)
        else:
            for event in group:
                run = advance(run, event, at_s)
    return run


def advance(run: RunState, event: ev.AnyEvent, at_s: float = 0.0) -> RunState:
    """Return the state after an event that arrived at `at_s` seconds on the caller's clock."""
    match event:
        case ev.RunStarted():
            return _started(run, event)
        case ev.BaselinesMeasured():
            return with_line(replace(run, baselines=event), baselines_text(event), "dim")
        case ev.StepCompleted():
            return _with_steps(run, [event])
        case ev.UpdateSkipped():
            text = f"step {integer(event.step)}: update skipped, {event.reason} ({event.in_a_row} in a row)"
            return with_line(replace(run, skipped=run.skipped + 1), text, "bad")
        case ev.EvalProgressed():
            return replace(run, evaluating=event.done / event.total if event.total else 0.0)
        case ev.EvalCompleted():
            shown = [metric for metric in added_metrics() if metric.event is ev.EvalCompleted]
            return _with_curves(_evaluated(run, event), shown, np.array([_place(run, event.step)]), [event])
        case ev.FullEvalCompleted():
            text = f"step {integer(event.step)}: {full_scores(event)}"
            return with_line(replace(run, full_evaluation=event, evaluating=None), text, "plain")
        case ev.LinesReproduced():
            text = f"step {integer(event.step)}: self-test {verdict(event)}"
            return with_line(replace(run, lines_reproduced=event), text, verdict_tone(event))
        case ev.SampleWritten():
            return _sampled(run, event)
        case ev.GradientNorms():
            name, norm = max(event.grad_norms.items(), key=lambda item: item[1], default=("", 0.0))
            return with_line(run, f"step {integer(event.step)}: largest gradient norm {norm:.3g} ({name})", "dim")
        case ev.HeadsScored():
            point = heads_point(_place(run, event.step), event)
            return replace(run, heads=thinned((*_before(run.heads, event.step), point), MAX_STATS))
        case ev.HealthMeasured():
            measured = health_point(_place(run, event.step), event)
            return replace(run, health=thinned((*_before(run.health, event.step), measured), MAX_STATS))
        case ev.InductionHeadAppeared():
            found = replace(run, induction=induction_mark(_place(run, event.step), event))
            return with_line(found, f"step {integer(event.step)}: {induction_text(event)}", "good")
        case ev.ExchangeMeasured():
            text = f"step {integer(event.step)}: exchange {exchange_text(event)}"
            return with_line(replace(run, exchange=event), text, "dim")
        case ev.CheckpointSaved():
            saved = Saved(event.kind, event.path, event.step, at_s)
            text = f"saved {PurePath(event.path).stem} at step {integer(event.step)}"
            return with_line(replace(run, saved=saved, save_error=""), text, "dim" if event.kind == "best" else "good")
        case ev.SaveFailed():
            text = f"not saved: {event.error}"
            return with_line(replace(run, save_error=event.error), text, "bad")
        case ev.LogFailed():
            return with_line(run, log_failure(event), "bad")
        case ev.LossDiverged():
            return with_line(replace(run, diverged=event), f"step {integer(event.step)}: {divergence(event)}", "bad")
        case ev.PlanMade():
            plan = Plan(**msgspec.structs.asdict(event))
            return replace(run, plan=plan) if plan.step_s else run  # the last step is unknown before the first one
        case ev.RoundAwaited():
            return with_line(run, awaited_text(event), "plain")
        case ev.RunPaused() if run.paused:
            return run  # a single step while paused
        case ev.RunPaused():
            return with_line(replace(run, paused=True), f"paused at step {integer(event.step)}", "plain")
        case ev.RunContinued():
            return with_line(replace(run, paused=False), "continued", "plain")
        case ev.RunFinished():
            done = replace(run, finished=event, paused=False, evaluating=None)
            tone: Tone = "bad" if event.reason == "diverged" else "good"
            return with_line(done, end_text(event, done), tone)
        case _:
            assert_never(event)


def _started(run: RunState, event: ev.RunStarted) -> RunState:
    """Begin a session of the run, and log what it trains on."""
    for warning in event.warnings:
        run = with_line(run, warning, "bad")
    begun = replace(run, started=event, plan=None, finished=None, paused=False, diverged=None, exchange=None,
                    other_text_until=min(run.other_text_until, event.step))  # fmt: skip
    begun = with_line(begun, started_text(event), "good")
    if event.model_reason:
        begun = with_line(begun, event.model_reason, "plain")
    if event.first_words:
        begun = with_line(begun, text_sample(event), "dim")
    if small := too_small_text(event):
        begun = with_line(begun, small, "plain")
    if event.best_restarted:
        fresh = Score(patience_from=event.step)
        begun = replace(begun, best=fresh, first_scores=None, full_evaluation=None, other_text_until=event.step)
        begun = with_line(begun, event.best_restarted, "plain")
    return begun


def _with_steps(run: RunState, steps: Sequence[ev.StepCompleted]) -> RunState:
    at = places(steps)
    shown = (*STEP_CURVES, *(metric for metric in added_metrics() if metric.event is ev.StepCompleted))
    advanced = replace(run, last=steps[-1], curve=run.curve.with_values(at, [step.loss for step in steps]))
    return replace(_with_curves(advanced, shown, at, steps), evaluating=None)


def _with_curves(
    run: RunState, shown: Sequence[Metric], at: NDArray[np.float64], events: Sequence[ev.Event]
) -> RunState:
    """Append the values of metrics, read from events at these places, to their curves."""
    if not shown:
        return run
    added = {
        metric.name: run.curves.get(metric.name, Curve()).with_values(at, [metric.read(event) for event in events])
        for metric in shown
    }
    return replace(run, curves={**run.curves, **added})


def with_line(run: RunState, text: str, tone: Tone) -> RunState:
    """Return the state with one more line of the log."""
    line = LogLine(run.elapsed_s, tone, text)
    return replace(run, log=(*run.log, line)[-MAX_LOG_LINES:], logged=run.logged + 1)


def _evaluated(run: RunState, event: ev.EvalCompleted) -> RunState:
    """Add an evaluation, and update the best one."""
    if event.step == 0:
        run = replace(run, first_scores=EvalScores(0, event.loss, event.accuracy, event.bits_per_byte))
    place = _place(run, event.step)
    passes = place.tokens / run.started.train_tokens if run.started and run.started.train_tokens else 0.0
    point = Evaluation(*place, event.loss, event.accuracy, event.bits_per_byte, run.curve.smoothed, passes)
    is_best = event.is_best_after(run.best.accuracy)
    best = run.best._replace(without_improvement=event.without_improvement)
    if is_best:
        best = best._replace(accuracy=event.accuracy, step=event.step, loss=event.loss)
    if is_best if event.is_best is None else event.is_scheduled and not event.without_improvement:
        best = best._replace(patience_from=event.step)
    evaluations = thinned((*run.evaluations, point), MAX_EVALUATIONS, lambda found: found.step == best.step)
    changed = replace(run, evaluations=evaluations, best=best, evaluating=None)
    if event.step == 0 and changed.start_scores is not None:
        return with_line(changed, f"before fine-tuning: {scores_text(event)}", "plain")
    text = f"step {integer(event.step)}: {scores_text(event)}{f' ★ best {run.best_metric}' if is_best else ''}"
    return _with_advice(with_line(changed, text, "good" if is_best else "plain"), event)


def _with_advice(run: RunState, event: ev.EvalCompleted) -> RunState:
    """Record the first evaluation after the second pass over the training text, and log what it means.

    An evaluation about guessing is of a run that does not learn: its gap means something else. So is the first one that
    is worse than the first steps, as in a run that diverges; the next one is of a model that memorizes.
    """
    passes = run.last.epoch + (run.epoch_fraction == 1.0) if run.last is not None else 0
    if run.used_up is not None or passes < MIN_PASSES:
        return run
    latest, before, first_loss = run.evaluations[-1], run.evaluations[-2:-1], run.curve.rows()[0, HIGH]
    if latest.loss >= first_loss and not (before and before[0].loss >= first_loss):
        return run
    if not has_learned(run, latest):
        return run
    advised = replace(run, used_up=UsedUp(event.step, passes, run.curve.smoothed, event.loss))
    return with_line(advised, advice(advised), "plain")


def _place(run: RunState, step: int) -> Place:
    return Place(step, run.last.tokens if run.last else 0, run.elapsed_s)


def _before(points: tuple[Measured, ...], step: int) -> tuple[Measured, ...]:
    """Return the points without one of the same step, which is measured again."""
    return points[:-1] if points and points[-1].place.step == step else points


def _sampled(run: RunState, event: ev.SampleWritten) -> RunState:
    """Add a sample with the evaluation of the same step."""
    point = run.evaluation
    evaluation = point if point and point.step == event.step else None
    sample = Sample(
        event.step, run.elapsed_s, event.prompt, event.text, evaluation, event.copied, event.searched, event.exact_text
    )
    samples = thinned((*run.samples, sample), MAX_SAMPLES, lambda found: found.step == run.best.step)
    return replace(run, samples=samples)


def thinned(
    items: tuple[Item, ...], maximum: int, is_kept: Callable[[Item], bool] = lambda _: False
) -> tuple[Item, ...]:
    """Return at most `maximum` items: above that, every second one of the older half is removed.

    The first one remains, and so does one for which `is_kept` is true.
    """
    if len(items) <= maximum:
        return items
    half = len(items) // 2
    older = [item for number, item in enumerate(items[:half]) if number % 2 == 0 or is_kept(item)]
    return (*older, *items[half:])
