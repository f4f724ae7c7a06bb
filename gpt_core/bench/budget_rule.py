"""Rule that chooses the settings of a run by its time budget: model, batches, schedule, evaluations.

The model is the largest of `MODELS` that

- fits into half of the free memory,
- reads enough tokens per parameter within the budget (`Model.tokens_per_parameter`) at the speed that this machine is
  measured to have, where at most `Model.max_passes` passes over the text count: a larger model would not have learned
  enough by the deadline, or would memorize the text.

All models but the largest, the preset `mini`, have the layers of Qwen3 and are trained by Muon. A short text has a
small vocabulary (`VOCABULARIES`): most tokens of a larger one would occur too rarely in it to be learned. A text
that is read several times by a model that is large for it is memorized without dropout and with little weight decay:
both follow from passes and sizes (`DROPOUTS`, `DECAY_DIVISOR`), so that the model also learns from the hundredth pass.
They do not if the run starts from a file, or if the text is so small that it can only be memorized (`MEMORIZING`).
The rate is constant after a short warm-up, and falls to 0 over the last half of the budget. Nothing but the deadline
ends the run, unless a limit on steps or epochs was requested: model and schedule then follow from the steps up to it.
Settings that were requested replace what the rule chooses, one by one: a requested preset fixes the model, and a file
to start from does. No `epoch_NNN` is saved: a short text has an epoch per second. If several ranks train together, the
speed is that of rank 0 alone.

`benchmarks/RESULTS.md` says which of these choices were measured, and how. `gpt-tui race` measures others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import floor, inf, log, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gpt_core.bench.estimate import (
    CorpusStats,
    StepTime,
    estimate_memory,
    max_run_steps,
    read_corpus_stats,
    step_tokens,
)
from gpt_core.bench.hardware import free_memory
from gpt_core.bench.step_timing import STEP_TIMES
from gpt_core.config.presets import EVAL_TOKENS, PRESETS
from gpt_core.config.resolve import Overrides
from gpt_core.config.settings import GROUP_RATES, NO_EPOCH_LIMIT, QWEN3, ModelShape, Settings
from gpt_core.errors import ConfigError
from gpt_core.kernels import compute_threads
from gpt_core.model.parameters import parameter_count
from gpt_core.progress import Progress, ignore_progress
from gpt_core.training.fine_tuning import resolve_new
from gpt_core.training.request import Newest, RunRequest, resolve_request, with_micro_batches
from gpt_core.training.run import MIN_TEXT_TOKENS

DROPOUTS = ((2000, 0.3), (500, 0.2), (15, 0.1))
"""(bound, dropout): the first entry whose bound `Candidate.memorization` exceeds"""
WEIGHT_DECAY = 0.1  # without dropout
MIN_DECAY, MAX_DECAY = 0.5, 8.0  # with it
DECAY_DIVISOR = 8  # of the square root of `Candidate.memorization`
MEMORIZING = {"dropout": 0.3, "weight_decay": 0.5}
"""Settings for a text that can only be memorized: with more weight decay it is not, and without dropout the model
continues it only where a training window began."""
VOCABULARIES = ((100_000, 1024), (400_000, 2048))
"""(bound, largest vocabulary): the first entry whose bound the bytes of the training text are below"""
MEMORY_SHARE = 0.5  # of the free memory
WARMUP_SHARE, MIN_WARMUP, MAX_WARMUP = 0.02, 100, 200
MAX_WARMUP_SHARE = 0.25
COOLDOWN = 0.5
MIN_EVALUATIONS = 20  # in a budget, if they take no more than about 5% of it
TOKENS_BETWEEN_EVALUATIONS = 400_000  # trained: the part of the eval text then takes 5% of the time
SOURCE = "time budget"

_MODEL = (
    *ModelShape.__struct_fields__, *GROUP_RATES, "precision", "optimizer", "muon_beta", "adam_beta2", "batch_size",
    "micro_batch_size",
)  # fmt: skip
_MUON: dict[str, object] = {"optimizer": "muon", "muon_beta": 0.9}


class Model(NamedTuple):
    """A model to choose from: the settings that it follows, and what it needs."""

    settings: Mapping[str, object]
    tokens_per_parameter: float
    """at least, for a model that is better than the next smaller one"""
    max_passes: float = 20
    """passes over the text that count"""

    @property
    def values(self) -> dict[str, object]:
        """The settings that come with the model: shape, layers, rates, optimizer, batches."""
        return {name: self.settings[name] for name in _MODEL if name in self.settings}

    def with_vocabulary(self, largest: int) -> Model:
        """Return the model with a vocabulary of at most this size."""
        size: Any = self.settings["vocab_size"]
        return self._replace(settings={**self.settings, "vocab_size": min(size, largest)})


_SMALL: dict[str, object] = PRESETS["nano"] | QWEN3 | _MUON | {"seq_len": 128, "batch_size": 8}

MODELS = (
    Model(
        _SMALL | {
            "d_model": 64, "hidden_size": 176, "num_heads": 2, **dict.fromkeys(GROUP_RATES, 6e-3), "unembed_lr": 12e-3,
        },
        0,
    ),
    Model(
        _SMALL | {
            "d_model": 96, "hidden_size": 256, "num_heads": 3, **dict.fromkeys(GROUP_RATES, 4e-3), "unembed_lr": 8e-3,
        },
        2,
        inf,
    ),
    Model(_SMALL | {"hidden_size": 344, "unembed_lr": 6e-3}, 2, inf),  # small enough for any text
    Model(
        PRESETS["nano"] | QWEN3 | _MUON | {
            "d_model": 192, "hidden_size": 512, "num_heads": 6, "seq_len": 128, "layers": 5,
            **dict.fromkeys(GROUP_RATES, 2e-3), "unembed_lr": 4e-3,
        },
        1.0,
    ),
    Model(
        PRESETS["micro"] | QWEN3 | _MUON | {
            "d_model": 256, "hidden_size": 688, "num_heads": 4, "seq_len": 128, "layers": 6, "batch_size": 16,
            **dict.fromkeys(GROUP_RATES, 1.5e-3), "unembed_lr": 3e-3,
        },
        2,
    ),
    Model(PRESETS["micro"] | QWEN3 | _MUON | {"hidden_size": 848, "unembed_lr": 2e-3}, 3),
    Model(msgspec.structs.asdict(Settings()) | PRESETS["mini"], 8),
)  # fmt: skip
"""The models, in ascending size. With SwiGLU two thirds of the hidden units make an MLP of the same size."""

FIRST_MEASURED = 2  # index of the model that most budgets on most machines are near


def timed(settings: Settings) -> StepTime:
    """Return the time per step, measured unless it is known."""
    found = STEP_TIMES(settings)
    assert found is not None  # nothing stops the measurement
    return found


class Measurements(NamedTuple):
    """Measurements of the rule: the texts, the time per step, the free memory in bytes (None if unknown)."""

    texts: Callable[[Settings], CorpusStats] = read_corpus_stats
    time: Callable[[Settings], StepTime] = timed
    free_memory: Callable[[], int | None] = free_memory


MEASUREMENTS = Measurements()


class Choice(NamedTuple):
    """Settings that the rule chooses, by name, and why, in one or two sentences."""

    values: dict[str, object]
    reason: str


class Candidate(NamedTuple):
    """Settings of a model, with its speed."""

    settings: Settings
    text_tokens: int
    """of the training text"""
    step_s: float

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return parameter_count(self.settings.shape)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a full batch."""
        return self.settings.batch_size * self.settings.seq_len

    @property
    def steps_in_time(self) -> float:
        """Steps within the budget if nothing else ends the run."""
        return 60 * self.settings.minutes / max(self.step_s, 1e-9)

    @property
    def steps(self) -> float:
        """Steps within the budget, up to the limits on steps and epochs."""
        return min(self.steps_in_time, max_run_steps(self.settings, self.text_tokens))

    @property
    def tokens(self) -> float:
        """Tokens trained within these steps."""
        return self.steps * step_tokens(self.settings, self.text_tokens)

    @property
    def passes(self) -> float:
        """Passes over the text within these steps."""
        return self.tokens / max(1, self.text_tokens)

    @property
    def memorization(self) -> float:
        """Parameters per token of the text, times passes over it: how easily the model memorizes it; 0 if read once."""
        return self.passes * self.parameters / max(1, self.text_tokens) if self.passes > 1 else 0.0

    def per_parameter(self, max_passes: float) -> float:
        """Return the tokens per parameter, with at most this many passes over the text."""
        return min(self.tokens, max_passes * self.text_tokens) / self.parameters


def budget_request(
    overrides: Overrides, *, resume: Path | Newest | None = None, overwrite: bool = False, ranks: int = 1,
    measurements: Measurements = MEASUREMENTS, progress: Progress = ignore_progress,
) -> RunRequest:  # fmt: skip
    """Return the request of a run as `resolve_request` does; of a new run with a time budget, with the chosen settings.

    In a new run of several ranks, each of them has a micro-batch of each step, unless another size was requested.

    Args:
        overrides: Requested settings.
        resume: Checkpoint to resume, "newest" for the newest valid one of the models folder, None for a new run.
        overwrite: Replace the checkpoints of another run in the folder.
        ranks: Number of ranks that train together.
        measurements: Measurements of the rule.
        progress: Receives the progress of the measurements.

    Raises:
        GptError: As `resolve_request`; or a text cannot be read.
    """
    if resume is not None:
        return resolve_request(overrides, resume=resume, overwrite=overwrite)
    chosen, reason = with_choice(overrides, measurements, progress)
    request = replace(resolve_request(chosen, overwrite=overwrite), model_reason=reason)
    if "micro_batch_size" in overrides.values:
        return request
    return replace(request, settings=with_micro_batches(request.settings, ranks))


def with_choice(
    overrides: Overrides, measurements: Measurements = MEASUREMENTS, progress: Progress = ignore_progress
) -> tuple[Overrides, str]:
    """Return requested settings of a new run with those that the rule chooses below them, and why.

    Without a time budget, and for a self-test, nothing is chosen and the reason is "".

    Raises:
        GptError: The settings contradict each other, or a text cannot be read.
    """
    if not overrides.value("minutes") or overrides.value("overfit_tiny"):
        return overrides, ""
    choice = choose(overrides, measurements, progress)
    return overrides._replace(layers=((SOURCE, choice.values), *overrides.layers)), choice.reason


def choose(overrides: Overrides, measurements: Measurements, progress: Progress = ignore_progress) -> Choice:
    """Choose the settings of a run with a time budget; see the description of the module.

    The speed of a model is measured only where it decides: from one of the smaller models on, upwards as long as they
    fit, or downwards until one does.
    """
    is_fixed = overrides.preset is not None or bool(overrides.value("init_from"))
    options = _options(overrides, (Model({}, 0),) if is_fixed else MODELS)
    largest = None if is_fixed else _largest_vocabulary(measurements.texts(options[0][1]))
    if largest is not None:
        options = _options(overrides, [model.with_vocabulary(largest) for model in MODELS])
    free = measurements.free_memory()
    chosen: Candidate | None = None
    limit = ""
    number = min(FIRST_MEASURED, len(options) - 1)
    while number < len(options) and (chosen is None or not limit):
        model, settings = options[number]
        texts = measurements.texts(settings)
        memory = estimate_memory(settings, compute_threads(settings.threads), texts).total
        if number > 0 and free is not None and memory > MEMORY_SHARE * free:
            limit = f"{_model(settings)} needs more than half of the free memory"
        else:
            progress("measuring this machine", number / len(options))
            found = Candidate(settings, texts.train_tokens, measurements.time(settings).step_s)
            if number == 0 or found.per_parameter(model.max_passes) >= model.tokens_per_parameter:
                chosen, values, is_smallest = found, model.values, number == 0 and len(options) > 1
            else:
                limit = _too_large(found, model)
        number += -1 if chosen is None else 1
    assert chosen is not None
    needed = {} if overrides.value("init_from") else _regularization(chosen)
    regularization = {name: value for name, value in needed.items() if name not in overrides.values}
    settings = msgspec.structs.replace(chosen.settings, **regularization)
    chosen = chosen._replace(settings=settings, step_s=measurements.time(settings).step_s)  # dropout takes time
    why_strong = ""
    if regularization and needed["dropout"] > 0:
        strong = " and ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in regularization.items())
        why_strong = f"; {strong}, because the text is repeated"
    why_few = ""
    if largest is not None and "vocab_size" not in overrides.values:
        why_few = f"; a vocabulary of {settings.vocab_size:,}, because the text is short"
    reason = _reason(chosen, limit, is_smallest=is_smallest) + why_few + why_strong
    return Choice(values | regularization | _schedule(chosen), reason)


def _options(overrides: Overrides, models: Sequence[Model]) -> list[tuple[Model, Settings]]:
    """Return the models to choose from, each with all settings of the run.

    A requested shape leaves one of several models: the one that was made for the nearest number of parameters. So do
    requested sizes with which a model is not larger than the one before it. Models that requested settings do not fit
    are left out.

    Raises:
        GptError: The requested settings fit no model.
    """
    found: list[tuple[Model, Settings]] = []
    problem: ConfigError | None = None
    for model in models:
        try:
            values = model.values | {"max_epochs": NO_EPOCH_LIMIT}
            settings = resolve_new(overrides._replace(layers=((SOURCE, values), *overrides.layers))).settings
        except ConfigError as error:
            problem = problem or error
            continue
        if not found or parameter_count(settings.shape) > parameter_count(found[-1][1].shape):
            found.append((model, settings))
        elif _distance(model, settings) < _distance(*found[-1]):
            found[-1] = (model, settings)
    if not found:
        assert problem is not None
        raise problem
    return found


def _distance(model: Model, settings: Settings) -> float:
    """Return the distance of the sizes of a model and of the run that has its other settings: |ln(P / P_run)|."""
    sizes: dict[str, Any] = {
        name: model.settings[name] for name in ModelShape.__struct_fields__ if name in model.settings
    }
    return abs(log(parameter_count(ModelShape(**sizes)) / parameter_count(settings.shape)))


def _largest_vocabulary(texts: CorpusStats) -> int | None:
    """Return the size of the largest vocabulary that the training text teaches, None for that of the models."""
    size = texts.train_tokens * texts.bytes_per_token
    return next((vocabulary for bound, vocabulary in VOCABULARIES if 0 < size < bound), None)


def _regularization(model: Candidate) -> dict[str, float]:
    """Return the dropout and the weight decay that keep a model from memorizing the text."""
    if model.text_tokens < MIN_TEXT_TOKENS:
        return MEMORIZING
    dropout = next((value for bound, value in DROPOUTS if model.memorization > bound), 0.0)
    if not dropout:
        return {"dropout": 0.0, "weight_decay": WEIGHT_DECAY}
    decay = sqrt(model.memorization) / DECAY_DIVISOR
    return {"dropout": dropout, "weight_decay": round(min(max(decay, MIN_DECAY), MAX_DECAY), 1)}


def _schedule(model: Candidate) -> dict[str, object]:
    """Return the settings that follow from the number of steps of the run."""
    steps = model.steps
    warmup = min(max(MIN_WARMUP, WARMUP_SHARE * steps), MAX_WARMUP, MAX_WARMUP_SHARE * steps)
    every = max(steps / MIN_EVALUATIONS, TOKENS_BETWEEN_EVALUATIONS / model.batch_tokens)
    return {
        "warmup_steps": max(1, round(warmup)), "cooldown": COOLDOWN,
        "min_lr_share": 0.0, "max_epochs": NO_EPOCH_LIMIT, "patience": 0, "best_metric": "loss",
        "improvement_threshold": 0.0, "eval_every_steps": max(1, round(every)), "eval_tokens": EVAL_TOKENS,
        "save_epoch_number": 0,
    }  # fmt: skip


def _reason(model: Candidate, limit: str, *, is_smallest: bool) -> str:
    """Return why a model was chosen; `limit` says why no larger one was, "" if the model was requested."""
    minutes = model.settings.minutes
    length = f"{_short(model.steps)} step{'s' * (model.steps != 1)}"
    if model.steps == model.steps_in_time:
        rate = _short(model.tokens / (60 * minutes))
        length = f"{minutes:g} minute{'s' * (minutes != 1)} at {rate} tokens per second, without evaluations,"
    why = (
        f"{length} are {_short(model.tokens)} tokens, {_short(model.passes)} passes over the text and "
        f"{_short(model.tokens / model.parameters)} tokens per parameter"
    )
    smallest = "; this is the smallest model" if is_smallest else ""
    return f"{_short(model.parameters)} parameters, because {why}{smallest}" + (f"; {limit}" if limit else "")


def _too_large(found: Candidate, model: Model) -> str:
    """Return why a model, with its speed, is too large for the budget or the text."""
    what, needed, per_parameter = _model(found.settings), model.tokens_per_parameter, found.tokens / found.parameters
    if per_parameter < needed:
        rounded = floor(100 * per_parameter) / 100 or per_parameter  # 0.999 is not 1
        return f"{what} would have {_short(rounded)} per parameter, fewer than {needed:g}"
    return f"{what} would need more text: {model.max_passes:g} passes have fewer than {needed:g} per parameter"


def _model(settings: Settings) -> str:
    return f"the next larger model, {_short(parameter_count(settings.shape))},"


def _short(number: float) -> str:
    """Format with at most three significant digits, below 1 with two: 2.36M, 19.2k, 12.3, 0.98, 0.0045."""
    for bound, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= bound * 0.9995:
            return f"{number / bound:.3g}{suffix}"
    return f"{number:.{3 if number >= 1 else 2}g}"
