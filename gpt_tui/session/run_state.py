"""Run state: a frozen value that describes a run at one moment. Charts, status, samples and log are drawn from it.

Pure: no clock, no thread, no widget. Events advance it (`gpt_tui.session.run_events`), within bounds of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import PurePath
from typing import NamedTuple

from gpt_core.config.settings import NO_EPOCH_LIMIT, Settings
from gpt_core.formats.training_state import Plan
from gpt_core.model.scores import EvalScores
from gpt_core.training.events import (
    BaselinesMeasured,
    EvalCompleted,
    ExchangeMeasured,
    FullEvalCompleted,
    LinesReproduced,
    LossDiverged,
    RunFinished,
    RunStarted,
    StepCompleted,
)
from gpt_core.training.losses import DIVERGED_RATIO
from gpt_core.training.metrics import BUILT_IN, Metric
from gpt_tui.session.curve import ELAPSED, HIGH, STEP, Curve
from gpt_tui.session.overfitting_text import UsedUp
from gpt_tui.session.stats_history import HeadsPoint, HealthPoint, InductionMark
from gpt_tui.shared.rows import Tone

PACE_STEPS = 512


class Limits(NamedTuple):
    """Settings that limit a run, named as in `gpt_core.config.settings.Settings`; 0 is no limit.

    `vocab_size` limits the loss, to that of a uniform distribution over the vocabulary (0: unknown).
    """

    max_epochs: int = 0
    patience: int = 0
    patience_min_steps: int = 0
    warmup_steps: int = 0
    eval_every_steps: int = 0
    vocab_size: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the limits in the settings."""
        limits = cls(*(getattr(settings, name) for name in cls._fields))
        return limits if settings.max_epochs < NO_EPOCH_LIMIT else limits._replace(max_epochs=0)


class Score(NamedTuple):
    """The best evaluation.

    Attributes:
        accuracy: Its accuracy, 0 to 1; -1 before the first evaluation.
        step: Its step.
        without_improvement: Scheduled evaluations since the best of them that count towards `patience`.
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
        text: The generated text, with U+FFFD for bytes that are not valid UTF-8.
        evaluation: The evaluation at the same step, None before the first step.
        copied: Its longest passage from the training text, "" for none; None if unknown.
        searched: Tokens at the start of the training text that were searched for it; 0 for all.
        exact_text: The text with these bytes escaped, as prompts have them.
    """

    step: int
    elapsed_s: float
    prompt: str
    text: str
    evaluation: Evaluation | None
    copied: str | None = None
    searched: int = 0
    exact_text: str = ""


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
        plan: Last plan of a run with a time budget, None before the time per step is known.
        baselines: Scores of the texts without a model, None before they were measured.
        last: Last completed step.
        curve: Train losses.
        curves: Values of the other metrics of the steps, and of the metrics that are not built in, by name.
        evaluations: Evaluations, thinned to MAX_EVALUATIONS.
        other_text_until: Step up to which evaluations are of an earlier eval text; -1 if none is.
        full_evaluation: Last evaluation on the complete eval text.
        lines_reproduced: Last check of a self-test.
        used_up: First evaluation after the second pass over the training text, None before it.
        samples: Samples, thinned to MAX_SAMPLES.
        heads: Scores of the heads at evaluations, thinned to MAX_STATS.
        health: Health of the weights at evaluations, thinned likewise.
        induction: The first induction head, None before it was found.
        exchange: Exchange of gradients of a run on several ranks, None before it was measured.
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
    plan: Plan | None = None
    baselines: BaselinesMeasured | None = None
    last: StepCompleted | None = None
    curve: Curve = field(default_factory=Curve)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    other_text_until: int = -1
    full_evaluation: FullEvalCompleted | None = None
    lines_reproduced: LinesReproduced | None = None
    used_up: UsedUp | None = None
    samples: tuple[Sample, ...] = ()
    heads: tuple[HeadsPoint, ...] = ()
    health: tuple[HealthPoint, ...] = ()
    induction: InductionMark | None = None
    exchange: ExchangeMeasured | None = None
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
    def has_used_its_time(self) -> bool:
        """True after the last step of a run with a time budget: only the final evaluation follows."""
        return self.budget_s > 0 and (self.elapsed_s >= self.budget_s or 0 < self.last_step <= self.step)

    @property
    def budget_s(self) -> float:
        """Time budget in seconds, 0 for none."""
        return 60 * self.started.minutes if self.started else 0.0

    @property
    def is_ended_by_its_time(self) -> bool:
        """True if the run has a time budget that ends before its last step does."""
        return self.budget_s > 0 and (self.plan is None or self.plan.is_ended_by_time)

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation; None before the first on the present eval text."""
        last = self.evaluations[-1] if self.evaluations else None
        return last if last is not None and last.step > self.other_text_until else None

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
        return self.plan.last_step if self.plan else self.started.max_steps if self.started else 0

    @property
    def progress(self) -> float | None:
        """Completed fraction of the run, 0 to 1: of its time if a time budget ends it, else of its steps.

        It covers the sessions before a resume, too. None without a limit.
        """
        if self.is_ended_by_its_time:
            return min(1.0, self.elapsed_s / self.budget_s)
        return min(1.0, self.step / self.last_step) if self.last_step else None

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
        """Seconds to the end; None where unknown.

        If a time budget does not end the run, it is at the pace of the last PACE_STEPS steps, evaluations included.
        """
        if self.is_ended_by_its_time and not self.finished:
            return max(0.0, self.budget_s - self.elapsed_s)
        recent = self.curve.recent[-PACE_STEPS:]
        if not self.last_step or self.finished or len(recent) < 2:
            return None
        steps, seconds = (float(recent[-1, column] - recent[0, column]) for column in (STEP, ELAPSED))
        return max(0, self.last_step - self.step) * seconds / steps if steps > 0 and seconds > 0 else None


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
