"""What is known of a run: a frozen value that each event advances. Everything that charts and status show is here.

Pure: no clock, no thread, no widget. Bounded: the curve thins itself, evaluations and log lines have a most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from pathlib import PurePath
from typing import Literal, NamedTuple, TypeVar, assert_never

from gpt_core.training.events import (
    AnyEvent,
    CheckpointSaved,
    EvalCompleted,
    EvalProgressed,
    GradientNorms,
    LossDiverged,
    RunContinued,
    RunFinished,
    RunPaused,
    RunStarted,
    SampleWritten,
    SaveFailed,
    StepCompleted,
    UpdateSkipped,
)
from gpt_core.training.losses import DIVERGED_RATIO, perplexity
from gpt_core.training.metrics import MetricValues, added_metrics
from gpt_tui.session.curve import ELAPSED, STEP, Curve
from gpt_tui.shared.formatting import fixed, nats, percent, short, whole

Tone = Literal["plain", "good", "bad", "dim"]
Item = TypeVar("Item")

MOST_EVALUATIONS = 512
MOST_SAMPLES = 200
MOST_LOG_LINES = 400
PACE_STEPS = 512

ENDINGS = {
    "max_steps": "all steps are done",
    "max_epochs": "all epochs are done",
    "early_stopping": "stopped early: the eval accuracy no longer improved",
    "epsilon": "the loss fell below epsilon",
    "overfit_done": "tiny overfit is done",
    "stopped": "stopped and saved",
    "diverged": "stopped: losses or gradients were not finite several times in a row",
}


def why_ended(event: RunFinished) -> str:
    """Why a run has ended."""
    if event.reason == "diverged" and event.guessing_loss:
        return f"ended diverged: {above_guessing(event.loss, event.guessing_loss)}"
    return ENDINGS.get(event.reason, event.reason)


def ending(event: RunFinished) -> str:
    """Why a run has ended, and after one that diverged, what to go on from."""
    return why_ended(event) + (after_divergence(event) if event.reason == "diverged" else "")


def divergence(event: LossDiverged) -> str:
    """That a run diverges, and what to do."""
    return f"diverging: {above_guessing(event.loss, event.guessing_loss)}{after_divergence(event, 'stop, then ')}"


def above_guessing(loss: float, guessing_loss: float) -> str:
    """How far a loss is above that of giving every token the same probability."""
    return f"the train loss {nats(loss)} is {times_guessing(loss, guessing_loss)} ({nats(guessing_loss)})"


def times_guessing(loss: float, guessing_loss: float) -> str:
    """How many times a loss is as large as that of guessing."""
    return f"{fixed(loss / guessing_loss if guessing_loss > 0 else inf, 1)} times that of guessing"


def divergence_so_far(history: RunState) -> str:
    """That a run diverges or ended so, "" if neither is the case."""
    if history.finished is not None and history.finished.reason == "diverged":
        return ending(history.finished)
    found = history.diverging
    return above_guessing(history.curve.smoothed, found.guessing_loss) if found else ""


def after_divergence(event: LossDiverged | RunFinished, first: str = "") -> str:
    """What to do after a divergence: the last good checkpoint, or that there is none; `first` comes before."""
    if not event.good_checkpoint:
        good = "good " if event.guessing_loss else ""  # else any checkpoint counts as good
        return f", and nothing {good}was saved before: {first}start again with lower learning rates"
    good = f"{PurePath(event.good_checkpoint).name} of step {whole(event.good_step)}"
    return f"; the last good checkpoint is {good}: {first}resume it with lower learning rates"


class Limits(NamedTuple):
    """The settings that bound a run, as `gpt_core.config.settings.Settings` names them; 0 is no bound."""

    max_epochs: int = 0
    patience: int = 0
    improvement_threshold: float = 0.0


class Score(NamedTuple):
    """The best eval accuracy so far, the step it was reached at, and the epochs since that brought no better one.

    Before there is one, `accuracy` is -1.
    """

    accuracy: float = -1.0
    step: int = 0
    stale_epochs: int = 0


NO_LIMITS = Limits()
NO_SCORE = Score()
NO_VALUES = MetricValues()


class Evaluation(NamedTuple):
    """One scoring of the eval text, and where the run was then. `tokens` and `elapsed_s` place it on other axes."""

    step: int
    tokens: int
    elapsed_s: float
    loss: float
    accuracy: float
    bits_per_byte: float


class Sample(NamedTuple):
    """What the model went on with from a fixed prompt; the evaluation it was made after, None before the first step."""

    step: int
    elapsed_s: float
    prompt: str
    text: str
    evaluation: Evaluation | None


class LogLine(NamedTuple):
    """One line of the log pane; `elapsed_s` is the run's time at the last step before it."""

    elapsed_s: float
    tone: Tone
    text: str


class Saved(NamedTuple):
    """The last checkpoint on disk. `at_s` is on the clock that `advance` is given."""

    kind: str
    path: str
    step: int
    at_s: float


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """A run so far. `logged` counts all log lines ever, so that a pane knows which of `log` are new to it."""

    limits: Limits = NO_LIMITS
    started: RunStarted | None = None
    last: StepCompleted | None = None
    curve: Curve = field(default_factory=Curve)
    evaluations: tuple[Evaluation, ...] = ()
    samples: tuple[Sample, ...] = ()
    best: Score = NO_SCORE
    evaluating: float | None = None
    paused: bool = False
    skipped: int = 0
    saved: Saved | None = None
    save_error: str = ""
    diverged: LossDiverged | None = None
    finished: RunFinished | None = None
    log: tuple[LogLine, ...] = ()
    logged: int = 0
    added_metrics: MetricValues = NO_VALUES  # of the metrics that are not built in

    @property
    def step(self) -> int:
        """The last completed step, or where the run began."""
        return self.last.step if self.last else self.started.step if self.started else 0

    @property
    def elapsed_s(self) -> float:
        """The run's time at its last step."""
        return self.last.elapsed_s if self.last else self.started.elapsed_s if self.started else 0.0

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def smoothed_perplexity(self) -> float:
        """The perplexity of the smoothed loss."""
        return perplexity(self.curve.smoothed)

    @property
    def diverging(self) -> LossDiverged | None:
        """The divergence that was found, unless the loss has come down since."""
        found = self.diverged
        return found if found and self.curve.smoothed > DIVERGED_RATIO * found.guessing_loss else None

    @property
    def last_step(self) -> int:
        """The step at which the run ends if nothing stops it before; 0 when nothing bounds it."""
        return self.started.max_steps if self.started else 0

    @property
    def epoch_share(self) -> float:
        """How much of the current epoch is done, 0 to 1."""
        per_epoch = self.started.steps_per_epoch if self.started else 0
        if not per_epoch:
            return 0.0
        done = self.step % per_epoch
        return 1.0 if self.step and not done else done / per_epoch

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end at the pace of the last PACE_STEPS steps, evaluations included; None while unknown."""
        recent = self.curve.recent[-PACE_STEPS:]
        if not self.last_step or self.finished or len(recent) < 2:
            return None
        steps, seconds = (float(recent[-1, column] - recent[0, column]) for column in (STEP, ELAPSED))
        return max(0, self.last_step - self.step) * seconds / steps if steps > 0 and seconds > 0 else None


def advance_all(history: RunState, events: Sequence[AnyEvent], at_s: float = 0.0) -> RunState:
    """The history after these events, in order; runs of steps are added at once, which is much cheaper."""
    if added := added_metrics():
        history = replace(history, added_metrics=history.added_metrics.updated(events, added))
    for are_steps, group in groupby(events, key=lambda event: isinstance(event, StepCompleted)):
        if are_steps:
            steps = [event for event in group if isinstance(event, StepCompleted)]
            history = replace(history, last=steps[-1], curve=history.curve.extended(steps), evaluating=None)
        else:
            for event in group:
                history = advance(history, event, at_s)
    return history


def advance(history: RunState, event: AnyEvent, at_s: float = 0.0) -> RunState:
    """The history after one event, received at `at_s` seconds on the reader's own clock."""
    match event:
        case RunStarted():
            for warning in event.warnings:
                history = _logged(history, warning, "bad")
            begun = replace(history, started=event, finished=None, paused=False, diverged=None)
            return _logged(begun, _started_text(event), "good")
        case StepCompleted():
            return replace(history, last=event, curve=history.curve.extended([event]), evaluating=None)
        case UpdateSkipped():
            text = f"step {whole(event.step)} changed nothing: {event.reason} ({event.in_a_row} in a row)"
            return _logged(replace(history, skipped=history.skipped + 1), text, "bad")
        case EvalProgressed():
            return replace(history, evaluating=event.done / event.total if event.total else 0.0)
        case EvalCompleted():
            return _evaluated(history, event)
        case SampleWritten():
            return _sampled(history, event)
        case GradientNorms():
            name, norm = max(event.grad_norms.items(), key=lambda item: item[1], default=("", 0.0))
            return _logged(history, f"step {whole(event.step)}: largest gradient norm {norm:.3g}, of {name}", "dim")
        case CheckpointSaved():
            saved = Saved(event.kind, event.path, event.step, at_s)
            text = f"saved {PurePath(event.path).stem} at step {whole(event.step)}"
            return _logged(
                replace(history, saved=saved, save_error=""), text, "dim" if event.kind == "best" else "good"
            )
        case SaveFailed():
            text = f"not saved: {event.error}"
            return _logged(replace(history, save_error=event.error), text, "bad")
        case LossDiverged():
            return _logged(replace(history, diverged=event), f"step {whole(event.step)}: {divergence(event)}", "bad")
        case RunPaused() if history.paused:
            return history  # after a single step: it waits again
        case RunPaused():
            return _logged(replace(history, paused=True), f"paused at step {whole(event.step)}", "plain")
        case RunContinued():
            return _logged(replace(history, paused=False), "going on", "plain")
        case RunFinished():
            done = replace(history, finished=event, paused=False, evaluating=None)
            tone: Tone = "bad" if event.reason == "diverged" else "good"
            return _logged(done, f"step {whole(event.step)}: {ending(event)}", tone)
        case _:
            assert_never(event)


def is_unsaved(history: RunState, models_dir: str) -> bool:
    """Return whether the last save failed, also if the run could be saved in another folder than its own."""
    elsewhere = history.saved is not None and PurePath(history.saved.path).parent != PurePath(models_dir)
    return bool(history.save_error) or elsewhere


def noted(history: RunState, text: str, tone: Tone = "plain") -> RunState:
    """The history with a line in its log that no event brought, such as an error of the controller."""
    return _logged(history, text, tone)


def _logged(history: RunState, text: str, tone: Tone) -> RunState:
    line = LogLine(history.elapsed_s, tone, text)
    return replace(history, log=(*history.log, line)[-MOST_LOG_LINES:], logged=history.logged + 1)


def _started_text(event: RunStarted) -> str:
    what = "tiny overfit" if event.kind != "train" else event.preset or "training"
    where = f", from {PurePath(event.resumed_from).name} at step {whole(event.step)}" if event.resumed_from else ""
    return f"{what}: {short(event.parameters)} parameters, {short(event.train_tokens)} tokens{where}"


def _evaluated(history: RunState, event: EvalCompleted) -> RunState:
    """Adds the evaluation; by the trainer's rules it may be the best, and patience may wear off at an epoch's end."""
    tokens = history.last.tokens if history.last else 0
    point = Evaluation(event.step, tokens, history.elapsed_s, event.loss, event.accuracy, event.bits_per_byte)
    best = history.best
    better = best.accuracy < 0 or event.accuracy >= best.accuracy + history.limits.improvement_threshold
    if better:
        best = Score(event.accuracy, event.step)
    per_epoch = history.started.steps_per_epoch if history.started else 0
    if per_epoch and event.step % per_epoch == 0 and best.step <= event.step - per_epoch:
        best = best._replace(stale_epochs=best.stale_epochs + 1)
    evaluations = thinned((*history.evaluations, point), MOST_EVALUATIONS)
    changed = replace(history, evaluations=evaluations, best=best, evaluating=None)
    text = (
        f"step {whole(event.step)}: eval loss {nats(event.loss)}, accuracy {percent(event.accuracy)}, "
        f"{fixed(event.bits_per_byte)} bits a byte{' ★ best' if better else ''}"
    )
    return _logged(changed, text, "good" if better else "plain")


def _sampled(history: RunState, event: SampleWritten) -> RunState:
    """Adds the sample, beside the evaluation of the same step."""
    point = history.evaluation
    evaluation = point if point and point.step == event.step else None
    sample = Sample(event.step, history.elapsed_s, event.prompt, event.text, evaluation)
    return replace(history, samples=thinned((*history.samples, sample), MOST_SAMPLES))


def thinned(items: tuple[Item, ...], most: int) -> tuple[Item, ...]:
    """At most `most` of them: when there are more, every other one of the older half goes, but never the first."""
    if len(items) <= most:
        return items
    half = len(items) // 2
    return items[:half:2] + items[half:]
