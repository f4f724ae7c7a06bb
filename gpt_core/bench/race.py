"""A race: runs that differ in a few settings, with paired seeds, compared by the scores in their logs.

Each case is one combination of values; the first is the baseline. A seed gives every case the same order of the text,
and the same first weights where the shapes are equal, so that differences between the runs of one seed are much smaller
than those between two seeds: the mean of the paired differences and its standard error are what counts.

Scores are bits per byte of held-out text, which compare models of any shape and tokenizer. By default this is the end
of the training text (setting `hold_out`), never a text that other results are reported on.

Equal time is equal time of the training steps. Evaluations take most of a short race and little of a long run, so a
difference in the speed of training would be lost in their time.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from gpt_core.bench.budget_rule import MEASUREMENTS, Measurements, with_choice
from gpt_core.config.presets import PRESETS
from gpt_core.config.resolve import Overrides
from gpt_core.config.settings import NO_EPOCH_LIMIT, Settings
from gpt_core.config.validation import unknown_name
from gpt_core.errors import ConfigError, shown
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.synthetic import is_synthetic
from gpt_core.training.events import (
    AnyEvent,
    CheckpointSaved,
    EvalCompleted,
    FullEvalCompleted,
    PlanMade,
    RunFinished,
    RunStarted,
    StepCompleted,
)
from gpt_core.training.fine_tuning import resolve_new
from gpt_core.training.precision import with_precision

Axis = Literal["train_s", "tokens"]
TOLERANCE = 0.02  # of the limit: two runs of equal speed do not end at the same moment
MIN_EVALUATIONS, MAX_EVALUATIONS = 4, 20  # of a run of so many steps, if their number can be divided like that
STEPS_BETWEEN_EVALUATIONS = 50  # if neither of the two is reached
NOT_VARIED = frozenset({
    "seed", "models_dir", "minutes", "max_steps", "train_file", "eval_file", "text_field", "encoding", "val_frac",
    "hold_out", "eval_tokens", "overfit_tiny",
})  # fmt: skip
"""Settings that are the same in all runs of a race: their scores could not be compared, or they are its options."""


class Case(msgspec.Struct, frozen=True):
    """One combination of the varied settings.

    Attributes:
        name: The values, such as "dropout=0.1 optimizer=muon".
        settings: Settings of its runs, but for the seed and the folder.
    """

    name: str
    settings: Settings


class Point(NamedTuple):
    """An evaluation: the tokens and the seconds of the training steps before it, and its score."""

    tokens: float
    train_s: float
    bits_per_byte: float


class Curve(NamedTuple):
    """Evaluations of a run in order, tokens per second of its steps, and why it ended ("" if it has not).

    `part_tokens`: tokens of the eval text that each evaluation scored (0: all).
    """

    points: tuple[Point, ...]
    tokens_per_s: float
    reason: str
    part_tokens: int = 0

    @property
    def is_finished(self) -> bool:
        """True if the run has ended and was not stopped."""
        return self.reason not in ("", "stopped")

    def best_within(self, axis: Axis, limit: float) -> float:
        """Return the best score up to a time or a number of tokens; NaN without an evaluation up to there.

        Between two evaluations the score is interpolated.
        """
        within = [point for point in self.points if getattr(point, axis) <= limit * (1 + TOLERANCE)]
        if not within:
            return math.nan
        scores = [point.bits_per_byte for point in within]
        if len(within) < len(self.points):
            before, after = within[-1], self.points[len(within)]
            start, end = getattr(before, axis), getattr(after, axis)
            part = max(0.0, limit - start) / (end - start)
            scores.append(before.bits_per_byte + part * (after.bits_per_byte - before.bits_per_byte))
        return min(scores)


class Difference(msgspec.Struct, frozen=True):
    """Paired differences to the baseline in bits per byte, by seed; negative is better.

    Attributes:
        mean: Their mean.
        standard_error: Standard error of the mean; None for one seed.
        values: The differences, None where a run has no evaluation up to the common limit.
    """

    mean: float | None
    standard_error: float | None
    values: list[float | None]


class CaseResult(msgspec.Struct, frozen=True):
    """Result of one case.

    Attributes:
        name: Name of the case.
        bits_per_byte: Best score of each run, by seed; None without an evaluation.
        tokens_per_s: Mean throughput of the training steps of its runs.
        equal_time: Difference to the baseline, each pair up to the time of the training steps of the faster run.
        equal_tokens: Likewise, up to the tokens of the run that read fewer.
    """

    name: str
    bits_per_byte: list[float | None]
    tokens_per_s: float
    equal_time: Difference | None = None
    equal_tokens: Difference | None = None


def events_in_race(events: Iterable[AnyEvent], settings: Settings) -> Iterator[AnyEvent]:
    """Yield the events of a run up to its end in the race: what a later resume has added to the log is left out.

    Args:
        events: Events of the log of the run.
        settings: Settings of the run in the race; the folder is named in errors.

    Raises:
        ConfigError: The run was trained with other limits than the race's before it ended.
    """
    for event in events:
        if other := _other_limit(event, settings):
            limit = f"minutes={settings.minutes:g}" if settings.minutes else f"max_steps={settings.max_steps}"
            raise ConfigError(
                f"{settings.models_dir}: got a run with {other}, expected {limit}, as in the race; move or delete this "
                "folder, and the same command trains the run again"
            )
        yield event
        if isinstance(event, RunFinished) and event.reason != "stopped":
            return


def _other_limit(event: AnyEvent, settings: Settings) -> str:
    """Return the limit of a run that is not that of the race, as far as an event shows it, else ""."""
    match event:
        case RunStarted() if event.minutes and event.minutes != settings.minutes:
            return f"minutes={event.minutes:g}"
        case RunStarted() if not event.minutes and (settings.minutes or event.max_steps > settings.max_steps):
            return f"max_steps={event.max_steps}"
        case RunFinished("max_steps") if event.step != settings.max_steps:
            return f"max_steps={event.step}"
    return ""


def curve_of(events: Iterable[AnyEvent]) -> Curve:
    """Return the evaluations of a run from its log: those between its steps, else the last."""
    last: StepCompleted | None = None
    points: list[Point] = []
    train_s, follows_step, reason, part_tokens, scored_tokens = 0.0, False, "", 0, 0
    for event in events:
        match event:
            case RunStarted():
                part_tokens = event.eval_part_tokens
            case StepCompleted():
                train_s += step_seconds(event, last, follows_step=follows_step)
                last, follows_step, reason = event, True, ""
            case EvalCompleted() if last is not None and math.isfinite(event.bits_per_byte):
                points.append(Point(last.tokens, train_s, event.bits_per_byte))
                scored_tokens = part_tokens
            case FullEvalCompleted() if last is not None and not points and math.isfinite(event.bits_per_byte):
                points.append(Point(last.tokens, train_s, event.bits_per_byte))
            case RunFinished():
                reason = event.reason
        if not isinstance(event, CheckpointSaved | PlanMade):  # take no time between two steps
            follows_step = isinstance(event, StepCompleted)
    rate = last.tokens / train_s if last is not None and train_s > 0 else 0.0
    return Curve(tuple(points), rate, reason, scored_tokens)


def step_seconds(step: StepCompleted, last: StepCompleted | None, *, follows_step: bool) -> float:
    """Return the time of a step: since the one before, or after something else, at the throughput of the last steps."""
    if last is not None and follows_step:
        return step.elapsed_s - last.elapsed_s
    tokens = step.tokens - (last.tokens if last is not None else 0)
    return tokens / step.tokens_per_s if step.tokens_per_s > 0 else 0.0


def difference(baseline: Sequence[Curve], other: Sequence[Curve], axis: Axis) -> Difference:
    """Return the paired differences of runs to those of the baseline with the same seeds.

    Each pair is compared up to the training time, or the tokens, of the run that had less; at equal time, runs with one
    deadline are compared at it. A run with a cooldown that has come further is then judged before its cooldown has
    ended.
    """
    values: list[float | None] = []
    for left, right in zip(baseline, other, strict=True):
        if not (left.points and right.points):
            values.append(None)
            continue
        limit = min(getattr(curve.points[-1], axis) for curve in (left, right))
        if axis == "train_s" and left.reason == right.reason == "deadline":
            limit = math.inf  # the last evaluations are those at the one deadline
        value = right.best_within(axis, limit) - left.best_within(axis, limit)
        values.append(value if math.isfinite(value) else None)
    known = [value for value in values if value is not None]
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Difference(statistics.mean(known) if known else None, error, values)


def race_results(curves: Mapping[str, Sequence[Curve]]) -> list[CaseResult]:
    """Return the results of the cases of a race, the first of which is the baseline; curves are in order of seeds."""
    baseline = next(iter(curves.values()))
    results = []
    for number, (name, runs) in enumerate(curves.items()):
        best = [min((point.bits_per_byte for point in run.points), default=None) for run in runs]
        rate = statistics.mean(run.tokens_per_s for run in runs)
        compared = [difference(baseline, runs, axis) for axis in ("train_s", "tokens")] if number else [None, None]
        results.append(CaseResult(name, best, rate, *compared))
    return results


# ---- cases


def race_cases(
    overrides: Overrides, vary: Sequence[str], *, steps: int = 0, measurements: Measurements = MEASUREMENTS,
    progress: Progress = ignore_progress,
) -> list[Case]:  # fmt: skip
    """Return the cases of a race: each combination of the values in `vary`, the last setting varying fastest.

    Args:
        overrides: Requested settings of all runs, `minutes` among them unless `steps` is given.
        vary: Texts such as "dropout=0,0.1", or "seq_len+batch_size=64+16,128+8" for settings that change together;
            `preset` may be varied, too, and `init_from`, of which an empty value stands for random weights:
            "init_from=,gpt2/ckpt_latest.safetensors".
        steps: Steps of each run; 0 for a time budget.
        measurements: Measurements of the rule for time budgets, which chooses once for all cases of one preset
            that start from one checkpoint.
        progress: Receives the progress of the measurements.

    Raises:
        GptError: A setting or value is not valid, or may not be varied.
    """
    varied = [_values(text) for text in vary]
    names = [name for choices in varied for name in choices[0]]
    if repeated := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"--vary {repeated}: got it twice, expected all values in one list: {repeated}=A,B,C")
    rest: dict[str, object] = {"patience": 0, "epsilon": 0.0, "max_epochs": NO_EPOCH_LIMIT, "save_epoch_number": 0}
    rest["hold_out"] = not overrides.value("eval_file")
    if steps:
        rest["eval_every_steps"] = _evaluation_interval(steps)
    length: dict[str, object] = {"max_steps": steps}  # above all: a configuration file may have a limit of its own
    base = overrides._replace(layers=(("race", rest), *overrides.layers, ("--steps", length)))
    chosen: dict[tuple[str | None, str | None], Overrides] = {}
    cases: list[Case] = []
    for combination in itertools.product(*varied):
        changes = {name: value for choice in combination for name, value in choice.items()}
        title = " ".join(f"{name}={value}" for name, value in changes.items())
        preset, start = changes.pop("preset", base.preset), changes.pop("init_from", None)
        if (preset, start) not in chosen:
            own = base._replace(preset=preset).override("--vary", {} if start is None else {"init_from": start})
            chosen[preset, start] = with_choice(own, measurements, progress)[0]
        settings = resolve_new(chosen[preset, start].override("--vary", changes)).settings
        if cases and is_synthetic(settings) != is_synthetic(cases[0].settings):
            raise ConfigError(
                f"--vary: got {cases[0].name} and {title}, one of which is trained on a generated text; expected one "
                "text for all runs: name it with --train-file"
            )
        case = Case(title, with_precision(settings)[0])
        if same := next((other.name for other in cases if other.settings == case.settings), ""):
            raise ConfigError(f"--vary: got {same} and {title}, expected different settings")
        cases.append(case)
    return cases


def _values(text: str) -> list[dict[str, str]]:
    """Return the choices in a text such as "dropout=0,0.1": each has a value for each name. Raises ConfigError."""
    together, _, listed = text.partition("=")
    names = [name.strip() for name in together.split("+")]
    if repeated := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"--vary {together}: got {repeated} twice, expected different settings, joined by +")
    texts = [value.strip() for value in listed.split(",") if value.strip() or names == ["init_from"]]
    for name in names:
        if name in NOT_VARIED:
            why = "expected a setting that changes how a run learns, not what it is scored on"
            raise ConfigError(f"--vary {name}: {why}")
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise ConfigError(f"--vary: got {shown(text)}, expected KEY=A,B with two or more different values")
    values = [[value.strip() for value in one.split("+")] if len(names) > 1 else [one] for one in texts]
    if wrong := next((one for one, found in zip(texts, values, strict=True) if len(found) != len(names)), ""):
        raise ConfigError(f"--vary {together}: got {shown(wrong)}, expected {len(names)} values, joined by +")
    choices = [dict(zip(names, found, strict=True)) for found in values]
    presets = [choice["preset"] for choice in choices if "preset" in choice]
    if unknown := next((name for name in presets if name not in PRESETS), ""):
        raise ConfigError(unknown_name("preset", unknown, PRESETS))
    return choices


def _evaluation_interval(steps: int) -> int:
    """Return the steps between two evaluations, a divisor of `steps`: the last step is evaluated like the others."""
    fewest = max(1, math.ceil(steps / MAX_EVALUATIONS))
    pairs = ((n, steps // n) for n in range(1, math.isqrt(steps) + 1) if steps % n == 0)
    divisors = sorted({n for pair in pairs for n in pair if n >= fewest})
    frequent = [n for n in divisors if steps >= MIN_EVALUATIONS * n]
    return next((n for n in frequent if n >= STEPS_BETWEEN_EVALUATIONS), frequent[-1] if frequent else divisors[0])
