"""Run state: a frozen value that each event of a run advances. Charts, status, samples and log are drawn from it.

Pure: no clock, no thread, no widget. Memory is bounded: the curve is thinned, and evaluations, samples and log lines
have a maximum number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import nan
from pathlib import PurePath
from typing import NamedTuple, TypeVar, assert_never

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from gpt_core.config.settings import Settings
from gpt_core.model.scores import EvalScores
from gpt_core.training.events import (
    AnyEvent,
    BaselinesMeasured,
    CheckpointSaved,
    EvalCompleted,
    EvalProgressed,
    Event,
    FullEvalCompleted,
    GradientNorms,
    HeadsScored,
    HealthMeasured,
    InductionHeadAppeared,
    LinesReproduced,
    LossDiverged,
    PlanMade,
    RunContinued,
    RunFinished,
    RunPaused,
    RunStarted,
    SampleWritten,
    SaveFailed,
    StepCompleted,
    UpdateSkipped,
)
from gpt_core.training.losses import DIVERGED_RATIO
from gpt_core.training.metrics import BUILT_IN, Metric, added_metrics
from gpt_tui.session.baseline_text import baselines_text
from gpt_tui.session.curve import ELAPSED, HIGH, STEP, Curve, places
from gpt_tui.session.outcome_text import (
    above_guessing,
    divergence,
    ending,
    full_scores,
    induction_text,
    verdict,
    verdict_tone,
)
from gpt_tui.session.overfitting_text import MIN_PASSES, UsedUp, used_up_text
from gpt_tui.session.start_text import started_text, text_sample
from gpt_tui.session.stats_history import (
    HeadsPoint,
    HealthPoint,
    InductionMark,
    Place,
    heads_point,
    health_point,
    induction_mark,
)
from gpt_tui.shared.formatting import integer, nats, percent, scores_text, short
from gpt_tui.shared.rows import Tone

Item = TypeVar("Item")
Measured = TypeVar("Measured", HeadsPoint, HealthPoint)

MAX_EVALUATIONS = 512
MAX_SAMPLES = 200
MAX_STATS = 256  # points of the heads and of the health
MAX_LOG_LINES = 400
PACE_STEPS = 512
STEP_CURVES = tuple(metric for metric in BUILT_IN if metric.name in ("learning_rate", "grad_norm", "throughput"))

MORE = {
    "max_steps": "a larger max_steps (0: no limit)",
    "deadline": "more minutes",
    "max_epochs": "a larger max_epochs",
    "overfit_done": "a larger overfit_steps",
}
"""How to give a run more steps, by the reason for its end."""


def divergence_so_far(run: RunState) -> str:
    """Return that a run diverges or has diverged, else ""."""
    if run.finished is not None and run.finished.reason == "diverged":
        return ending(run.finished)
    found = run.diverging
    return above_guessing("train loss", run.curve.smoothed, found.guessing_loss) if found else ""


class Limits(NamedTuple):
    """Settings that limit a run, named as in `gpt_core.config.settings.Settings`; 0 is no limit."""

    max_epochs: int = 0
    patience: int = 0
    patience_min_steps: int = 0
    warmup_steps: int = 0
    eval_every_steps: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the limits in the settings; epochs do not limit a run with a time budget."""
        limits = cls(*(getattr(settings, name) for name in cls._fields))
        return limits._replace(max_epochs=0) if settings.minutes else limits


class Score(NamedTuple):
    """The best evaluation.

    Attributes:
        accuracy: Its accuracy, 0 to 1; -1 before the first evaluation.
        step: Its step.
        without_improvement: Evaluations since then that count towards `patience`.
        loss: Its eval loss, None if unknown.
        patience_from: Step from which early stopping counts.
    """

    accuracy: float = -1.0
    step: int = 0
    without_improvement: int = 0
    loss: float | None = None
    patience_from: int = 0


NO_LIMITS = Limits()
NO_SCORE = Score()


class Evaluation(NamedTuple):
    """Result of one evaluation; `step`, `tokens` and `elapsed_s` are its places on the x axes.

    `train_loss` is the train loss (smoothed) at that step, NaN if unknown; `passes` counts passes over the text.
    """

    step: int
    tokens: int
    elapsed_s: float
    loss: float
    accuracy: float
    bits_per_byte: float
    train_loss: float = nan
    passes: float = 0.0


class Sample(NamedTuple):
    """Text generated from a fixed prompt.

    Attributes:
        step: Step after which it was generated.
        elapsed_s: Time of the run at that step.
        prompt: The fixed prompt.
        text: The generated text.
        evaluation: The evaluation at the same step, None before the first step.
        copied: Its longest passage from the training text, "" for none; None if unknown.
        searched: Tokens at the start of the training text that were searched for it; 0 for all.
    """

    step: int
    elapsed_s: float
    prompt: str
    text: str
    evaluation: Evaluation | None
    copied: str | None = None
    searched: int = 0


class LogLine(NamedTuple):
    """One line of the log; `elapsed_s` is the run's time at the step before it."""

    elapsed_s: float
    tone: Tone
    text: str


class Saved(NamedTuple):
    """Last saved checkpoint; `at_s` is on the clock that `advance` receives."""

    kind: str
    path: str
    step: int
    at_s: float


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """State of a run.

    Attributes:
        limits: Settings that limit the run.
        started: First event of the run, None before it.
        baselines: Scores of the texts without a model, None before they were measured.
        last: Last completed step.
        curve: Train losses.
        curves: Values of the other metrics of the steps, and of the metrics that are not built in, by name.
        evaluations: Evaluations, thinned to MAX_EVALUATIONS.
        full_evaluation: Last evaluation on the complete eval text.
        lines_reproduced: Last check of a self-test.
        used_up: First evaluation after the second pass over the training text, None before it.
        samples: Samples, thinned to MAX_SAMPLES.
        heads: Scores of the heads at evaluations, thinned to MAX_STATS.
        health: Health of the weights at evaluations, thinned likewise.
        induction: The first induction head, None before it was found.
        best: The best evaluation.
        first_scores: Scores before the first step, None if the weights were not evaluated then.
        evaluating: Progress of an evaluation, 0 to 1; None while there is none.
        paused: True while the run is paused.
        skipped: Number of skipped updates.
        saved: Last saved checkpoint.
        save_error: Why the last save failed, "" if it succeeded.
        diverged: The divergence, if one was found.
        finished: Last event of the run.
        log: The last MAX_LOG_LINES log lines.
        logged: Number of log lines so far, from which a panel derives how many of `log` are new.
    """

    limits: Limits = NO_LIMITS
    started: RunStarted | None = None
    baselines: BaselinesMeasured | None = None
    last: StepCompleted | None = None
    curve: Curve = field(default_factory=Curve)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    full_evaluation: FullEvalCompleted | None = None
    lines_reproduced: LinesReproduced | None = None
    used_up: UsedUp | None = None
    samples: tuple[Sample, ...] = ()
    heads: tuple[HeadsPoint, ...] = ()
    health: tuple[HealthPoint, ...] = ()
    induction: InductionMark | None = None
    best: Score = NO_SCORE
    first_scores: EvalScores | None = None
    evaluating: float | None = None
    paused: bool = False
    skipped: int = 0
    saved: Saved | None = None
    save_error: str = ""
    diverged: LossDiverged | None = None
    finished: RunFinished | None = None
    log: tuple[LogLine, ...] = ()
    logged: int = 0

    @property
    def step(self) -> int:
        """The last completed step, or the step that the run resumed from."""
        return self.last.step if self.last else self.started.step if self.started else 0

    @property
    def elapsed_s(self) -> float:
        """Time of the run at its last step, in seconds."""
        return self.last.elapsed_s if self.last else self.started.elapsed_s if self.started else 0.0

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def is_evaluated(self) -> bool:
        """True once there is an evaluation after the first step."""
        return self.evaluation is not None and self.evaluation.step > 0

    @property
    def best_metric(self) -> str:
        """Score of the best evaluation: accuracy or loss."""
        return self.started.best_metric if self.started else "accuracy"

    @property
    def start_scores(self) -> EvalScores | None:
        """Scores of the trained weights that a run started with; None for random weights."""
        return self.first_scores if self.started is not None and self.started.init_from else None

    @property
    def diverging(self) -> LossDiverged | None:
        """The divergence that was found, None after the train loss has recovered."""
        found = self.diverged
        return found if found and self.curve.smoothed > DIVERGED_RATIO * found.guessing_loss else None

    @property
    def last_step(self) -> int:
        """Last step of the run by its limits; 0 without a limit."""
        return self.started.max_steps if self.started else 0

    @property
    def epoch_fraction(self) -> float:
        """Completed fraction of the current epoch, 0 to 1."""
        started = self.started
        if started is None or not started.steps_per_epoch:
            return 0.0
        per_epoch = started.steps_per_epoch
        done = (self.step - started.epoch_offset) % per_epoch
        return 1.0 if self.step and not done else done / per_epoch

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end at the pace of the last PACE_STEPS steps, evaluations included; None where unknown."""
        recent = self.curve.recent[-PACE_STEPS:]
        if not self.last_step or self.finished or len(recent) < 2:
            return None
        steps, seconds = (float(recent[-1, column] - recent[0, column]) for column in (STEP, ELAPSED))
        return max(0, self.last_step - self.step) * seconds / steps if steps > 0 and seconds > 0 else None


def advance_all(run: RunState, events: Sequence[AnyEvent], at_s: float = 0.0) -> RunState:
    """Return the state after events, in order. Consecutive steps are added at once, which is much cheaper."""
    for are_steps, group in groupby(events, key=lambda event: isinstance(event, StepCompleted)):
        if are_steps:
            steps = [event for event in group if isinstance(event, StepCompleted)]
            run = _with_steps(run, steps)
        else:
            for event in group:
                run = advance(run, event, at_s)
    return run


def advance(run: RunState, event: AnyEvent, at_s: float = 0.0) -> RunState:
    """Return the state after an event that arrived at `at_s` seconds on the caller's clock."""
    match event:
        case RunStarted():
            return _started(run, event)
        case BaselinesMeasured():
            return _logged(replace(run, baselines=event), baselines_text(event), "dim")
        case StepCompleted():
            return _with_steps(run, [event])
        case UpdateSkipped():
            text = f"step {integer(event.step)}: update skipped, {event.reason} ({event.in_a_row} in a row)"
            return _logged(replace(run, skipped=run.skipped + 1), text, "bad")
        case EvalProgressed():
            return replace(run, evaluating=event.done / event.total if event.total else 0.0)
        case EvalCompleted():
            shown = [metric for metric in added_metrics() if metric.event is EvalCompleted]
            tokens = run.last.tokens if run.last else 0
            return _with_curves(_evaluated(run, event), shown, np.array([[event.step, tokens, run.elapsed_s]]), [event])
        case FullEvalCompleted():
            text = f"step {integer(event.step)}: {full_scores(event)}"
            return _logged(replace(run, full_evaluation=event, evaluating=None), text, "plain")
        case LinesReproduced():
            text = f"step {integer(event.step)}: self-test {verdict(event)}"
            return _logged(replace(run, lines_reproduced=event), text, verdict_tone(event))
        case SampleWritten():
            return _sampled(run, event)
        case GradientNorms():
            name, norm = max(event.grad_norms.items(), key=lambda item: item[1], default=("", 0.0))
            return _logged(run, f"step {integer(event.step)}: largest gradient norm {norm:.3g} ({name})", "dim")
        case HeadsScored():
            point = heads_point(_place(run, event.step), event)
            return replace(run, heads=thinned((*_before(run.heads, event.step), point), MAX_STATS))
        case HealthMeasured():
            measured = health_point(_place(run, event.step), event)
            return replace(run, health=thinned((*_before(run.health, event.step), measured), MAX_STATS))
        case InductionHeadAppeared():
            found = replace(run, induction=induction_mark(_place(run, event.step), event))
            return _logged(found, f"step {integer(event.step)}: {induction_text(event)}", "good")
        case CheckpointSaved():
            saved = Saved(event.kind, event.path, event.step, at_s)
            text = f"saved {PurePath(event.path).stem} at step {integer(event.step)}"
            return _logged(replace(run, saved=saved, save_error=""), text, "dim" if event.kind == "best" else "good")
        case SaveFailed():
            text = f"not saved: {event.error}"
            return _logged(replace(run, save_error=event.error), text, "bad")
        case LossDiverged():
            return _logged(replace(run, diverged=event), f"step {integer(event.step)}: {divergence(event)}", "bad")
        case PlanMade() if run.started is not None and event.step_s:
            return replace(run, started=structs.replace(run.started, max_steps=event.last_step))
        case PlanMade():
            return run  # the number of steps is unknown before the first one
        case RunPaused() if run.paused:
            return run  # a single step while paused
        case RunPaused():
            return _logged(replace(run, paused=True), f"paused at step {integer(event.step)}", "plain")
        case RunContinued():
            return _logged(replace(run, paused=False), "continued", "plain")
        case RunFinished():
            done = replace(run, finished=event, paused=False, evaluating=None)
            tone: Tone = "bad" if event.reason == "diverged" else "good"
            more = no_step_left(done)
            return _logged(done, f"step {integer(event.step)}: {ending(event)}{f'; {more}' if more else ''}", tone)
        case _:
            assert_never(event)


def best_score(run: RunState) -> str:
    """Return the score of the best evaluation by the run's metric: an eval loss or an accuracy; "" for none."""
    if run.best.accuracy < 0:
        return ""
    if run.best_metric == "accuracy":
        return percent(run.best.accuracy)
    return nats(run.best.loss) if run.best.loss is not None else ""


def no_step_left(run: RunState) -> str:
    """Return why a resumed run has ended without a step, and how to train longer; "" if it has taken one."""
    finished, started = run.finished, run.started
    if finished is None or started is None or finished.step != started.step or finished.reason not in MORE:
        return ""
    limit = f" (max_steps is {integer(started.max_steps)})" if finished.reason == "max_steps" else ""
    return f"no step left to train{limit}; to train longer, resume with {MORE[finished.reason]}"


def is_unsaved(run: RunState, models_dir: str) -> bool:
    """Return True if the last save failed, or could only be made in a folder other than `models_dir`."""
    elsewhere = run.saved is not None and PurePath(run.saved.path).parent != PurePath(models_dir)
    return bool(run.save_error) or elsewhere


def latest_value(run: RunState, metric: Metric) -> float | None:
    """Return the latest value of a registered metric, None before the first."""
    if metric not in BUILT_IN:
        curve = run.curves.get(metric.name)
        if curve is None:
            return None
        value = curve.smoothed if metric.smoothed else float(curve.recent[-1, HIGH])
    elif metric.smoothed:
        if run.last is None:
            return None
        value = run.curve.smoothed
    else:
        source = run.evaluation if metric.event is EvalCompleted else run.last
        if source is None:
            return None
        value = metric.read(source)
    return metric.transform(value) if metric.transform else value


def with_log_line(run: RunState, text: str, tone: Tone = "plain") -> RunState:
    """Return the state with a log line that belongs to no event, such as an error of the controller."""
    return _logged(run, text, tone)


def _started(run: RunState, event: RunStarted) -> RunState:
    """Begin a session of the run, and log what it trains on."""
    for warning in event.warnings:
        run = _logged(run, warning, "bad")
    begun = replace(run, started=event, finished=None, paused=False, diverged=None)
    begun = _logged(begun, started_text(event), "good")
    if event.model_reason:
        begun = _logged(begun, event.model_reason, "plain")
    if event.first_words:
        begun = _logged(begun, text_sample(event), "dim")
    if event.best_restarted:
        fresh = Score(patience_from=event.step)
        begun = _logged(replace(begun, best=fresh, first_scores=None), event.best_restarted, "plain")
    return begun


def _with_steps(run: RunState, steps: Sequence[StepCompleted]) -> RunState:
    at = places(steps)
    shown = (*STEP_CURVES, *(metric for metric in added_metrics() if metric.event is StepCompleted))
    advanced = replace(run, last=steps[-1], curve=run.curve.with_values(at, [step.loss for step in steps]))
    return replace(_with_curves(advanced, shown, at, steps), evaluating=None)


def _with_curves(run: RunState, shown: Sequence[Metric], at: NDArray[np.float64], events: Sequence[Event]) -> RunState:
    """Append the values of metrics, read from events at these places, to their curves."""
    if not shown:
        return run
    added = {
        metric.name: run.curves.get(metric.name, Curve()).with_values(at, [metric.read(event) for event in events])
        for metric in shown
    }
    return replace(run, curves={**run.curves, **added})


def _logged(run: RunState, text: str, tone: Tone) -> RunState:
    line = LogLine(run.elapsed_s, tone, text)
    return replace(run, log=(*run.log, line)[-MAX_LOG_LINES:], logged=run.logged + 1)


def gain_text(run: RunState) -> str:
    """Return how the best evaluation compares with that before fine-tuning; "" where there is nothing to compare."""
    before, best, full, started = run.start_scores, run.best, run.full_evaluation, run.started
    if before is None or started is None or not (run.is_evaluated or full is not None):
        return ""
    later = [(best.loss, best.step)] if best.step and best.loss is not None else []
    if full is not None and not started.eval_part_tokens:  # else it is of more text
        later.append((full.loss, full.step))
    if not later and not run.is_evaluated:
        return f"eval loss {nats(before.loss)} before fine-tuning (of {short(started.eval_part_tokens)} tokens)"
    loss, step = min(later, default=(before.loss, 0))
    now = f"{nats(loss)} at step {integer(step)}" if loss < before.loss else "which no evaluation improved"
    return f"eval loss {nats(before.loss)} before fine-tuning, {now}"


def _evaluated(run: RunState, event: EvalCompleted) -> RunState:
    """Add an evaluation, and update the best one as the trainer has decided.

    Logs of earlier versions do not have that decision: there the best accuracy counts.
    """
    if event.step == 0:
        run = replace(run, first_scores=EvalScores(0, event.loss, event.accuracy, event.bits_per_byte))
    tokens = run.last.tokens if run.last else 0
    passes = tokens / run.started.train_tokens if run.started and run.started.train_tokens else 0.0
    point = Evaluation(
        event.step, tokens, run.elapsed_s, event.loss, event.accuracy, event.bits_per_byte, run.curve.smoothed, passes
    )
    is_best = event.accuracy > run.best.accuracy if event.is_best is None else event.is_best
    if is_best:
        best = Score(event.accuracy, event.step, 0, event.loss, event.step)
    else:
        best = run.best._replace(without_improvement=event.without_improvement)
    evaluations = thinned((*run.evaluations, point), MAX_EVALUATIONS)
    changed = replace(run, evaluations=evaluations, best=best, evaluating=None)
    if event.step == 0 and changed.start_scores is not None:
        return _logged(changed, f"before fine-tuning: {scores_text(event)}", "plain")
    text = f"step {integer(event.step)}: {scores_text(event)}{f' ★ best {run.best_metric}' if is_best else ''}"
    return _with_advice(_logged(changed, text, "good" if is_best else "plain"), event)


def _with_advice(run: RunState, event: EvalCompleted) -> RunState:
    """Record the first evaluation after the second pass over the training text, and log what it means.

    An evaluation that is worse than the first steps is of a run that does not learn: its gap means something else.
    """
    passes = run.last.epoch + (run.epoch_fraction == 1.0) if run.last is not None else 0
    if run.used_up is not None or passes < MIN_PASSES or not event.loss < run.curve.rows()[0, HIGH]:
        return run
    advised = replace(run, used_up=UsedUp(event.step, passes, run.curve.smoothed, event.loss))
    return _logged(advised, advice(advised), "plain")


def advice(run: RunState) -> str:
    """Return that the training text of a run is used up, what it means and what would help; "" before."""
    tokens, parameters = (run.started.train_tokens, run.started.parameters) if run.started else (0, 0)
    return used_up_text(run.used_up, tokens, parameters) if run.used_up is not None else ""


def _place(run: RunState, step: int) -> Place:
    return Place(step, run.last.tokens if run.last else 0, run.elapsed_s)


def _before(points: tuple[Measured, ...], step: int) -> tuple[Measured, ...]:
    """Return the points without one of the same step, which is measured again."""
    return points[:-1] if points and points[-1].place.step == step else points


def _sampled(run: RunState, event: SampleWritten) -> RunState:
    """Add a sample with the evaluation of the same step."""
    point = run.evaluation
    evaluation = point if point and point.step == event.step else None
    sample = Sample(event.step, run.elapsed_s, event.prompt, event.text, evaluation, event.copied, event.searched)
    return replace(run, samples=thinned((*run.samples, sample), MAX_SAMPLES))


def thinned(items: tuple[Item, ...], maximum: int) -> tuple[Item, ...]:
    """Return at most `maximum` items: above that, every second one of the older half is removed, never the first."""
    if len(items) <= maximum:
        return items
    half = len(items) // 2
    return items[:half:2] + items[half:]
