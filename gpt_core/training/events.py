"""Events of a training run: frozen structs of plain values, in one stream.

The trainer yields them; the app, the headless run and `metrics.jsonl` consume them. `to_json` returns the one-line form
that `--json` prints and `metrics.jsonl` stores. Losses are in nats per token, times in seconds.
"""

from __future__ import annotations

from math import nan

import msgspec


class Event(msgspec.Struct, frozen=True, tag_field="event"):
    """Base of all events."""


class RunStarted(Event, frozen=True, tag="started", omit_defaults=True):
    """The run is ready to take its first step, at `step` (0, or the resumed checkpoint's).

    `kind` is "train" or "overfit-tiny"; `steps_per_epoch` and `max_steps` bound the progress bars (0: no bound).
    `eval_part_tokens`: tokens of the eval text that every evaluation scores (0: all `eval_tokens` of it).
    `warnings`: one line each, for example per unusable checkpoint that is newer than `resumed_from`, per limit that a
    resume raised, and if the disk has no space for two more checkpoints. `best_metric` is the score of the best model,
    accuracy or loss. `best_restarted`: why a resumed run begins a new best score and a new patience, "" if it keeps
    those of the checkpoint.
    """

    step: int
    epoch: int
    kind: str
    preset: str
    parameters: int
    train_tokens: int
    eval_tokens: int
    batch_tokens: int
    steps_per_epoch: int
    max_steps: int
    threads: int
    seed: int
    train_file: str
    eval_file: str
    resumed_from: str
    elapsed_s: float
    ema: float = 0.0
    """decay of the average of the weights that is evaluated and saved; 0 if it is the weights themselves"""
    dropout: float = 0.0
    """probability that an activation is zeroed in training"""
    precision: str = "float32"
    """format of the matrix products, float32 or bfloat16"""
    precision_reason: str = ""
    """why, if the setting is auto or the products are emulated"""
    warnings: tuple[str, ...] = ()
    eval_part_tokens: int = 0
    best_metric: str = "accuracy"
    best_restarted: str = ""
    epoch_offset: int = 0
    """epochs begin at multiples of `steps_per_epoch` plus this: not 0 after a resume with another text or batch size"""
    trained_parameters: int = 0
    """those that are not frozen; 0 if all are trained"""
    init_from: str = ""
    """checkpoint whose weights the run started with before its first step, "" for random weights"""
    init_sha256: str = ""
    """SHA-256 of that file"""
    init_step: int = 0
    """steps that those weights were trained for"""
    train_files: int = 0
    """files of the training text; 0 for the lines of the self-test"""
    documents: int = 0
    """documents of the training text"""
    train_bytes: int = 0
    """bytes of the training text in UTF-8"""
    first_words: str = ""
    """beginning of the training text"""
    minutes: float = 0.0
    """time budget; 0 for none. `max_steps` is then an estimate, which each `PlanMade` replaces; 0 before the first"""
    model_reason: str = ""
    """why the time budget has led to the model and its settings; "" for requested ones"""
    hosts: tuple[str, ...] = ()
    """host of each rank of a run on several processes; empty for one process"""
    sync_every_steps: int = 0
    """local steps of a rank between two exchanges; 0 if the ranks exchange gradients at each step"""


class BaselinesMeasured(Event, frozen=True, tag="baselines", omit_defaults=True):
    """Scores of the run's texts without a model, with which the losses can be compared; at most once per session.

    `uniform` is ln V, the loss of a uniform distribution; `unigram` is the entropy of the frequencies of the training
    text's tokens; both are in nats per token. `compressed` has the bits per byte of the eval text by compressor, and
    `compressed_bytes` the bytes from its start that were compressed (0: all). `bytes_per_token` of the eval text
    converts bits per byte into nats per token.
    """

    step: int
    uniform: float
    unigram: float
    bytes_per_token: float
    compressed: dict[str, float] = {}
    compressed_bytes: int = 0


class StepCompleted(Event, frozen=True, tag="step"):
    """One optimizer step. `loss` is the step loss, the mean over the targets of this step; `ppl` is its exponential.

    `lr` is the learning rate of this step after the schedule; where those of the parameter groups differ, it is that of
    the MLP weights. `tokens` counts all targets so far; `grad_norm` is the global norm before clipping. The train loss
    is the moving average of the step losses (`gpt_core.training.metrics.smooth`).
    """

    step: int
    epoch: int
    loss: float
    ppl: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    elapsed_s: float


class UpdateSkipped(Event, frozen=True, tag="skipped"):
    """The loss or gradient of this step was not finite, so no weight changed; `in_a_row` counts consecutive skips."""

    step: int
    in_a_row: int
    reason: str


class PlanMade(Event, frozen=True, tag="plan"):
    """Progress and end of a run with a time budget, as estimated at `step`; see `Plan` of the state.

    The learning rate of the steps up to the next plan follows from it. Logged when it is made, and on a resume.
    """

    step: int
    progress: float
    last_step: int
    elapsed_s: float
    step_s: float
    budget_s: float


class LossDiverged(Event, frozen=True, tag="loss_diverged", omit_defaults=True):
    """Step losses are far above `guessing_loss`, the loss of a uniform distribution. Training continues.

    `loss` is the median of the last step losses. `good_checkpoint` is the newest checkpoint from before the divergence,
    "" if there is none, and `good_step` is its step. While the loss is this high, ckpt_latest is saved only on request.
    """

    step: int
    loss: float
    guessing_loss: float
    good_checkpoint: str = ""
    good_step: int = 0


class EvalProgressed(Event, frozen=True, tag="eval_progress"):
    """An evaluation is in progress: `done` of `total` tokens. Displayed, but not logged."""

    step: int
    done: int
    total: int


class EvalCompleted(Event, frozen=True, tag="eval"):
    """Result of an evaluation: eval loss in nats per token, perplexity, token accuracy, bits per byte.

    It covers the same part of the eval text each time (`RunStarted.eval_part_tokens`), so that scores are comparable.
    `is_best`: True if it is the best one so far by the run's `best_metric`; None in logs of earlier versions.
    `without_improvement`: scheduled evaluations since the best of them that count towards `patience`.
    `is_scheduled`: False for an evaluation on request, or of a last step that has no other: it may be the best one, but
    changes nothing for early stopping.
    """

    step: int
    loss: float
    ppl: float
    accuracy: float
    bits_per_byte: float
    is_best: bool | None = None
    without_improvement: int = 0
    is_scheduled: bool = True

    def is_best_after(self, accuracy: float) -> bool:
        """Return True if it is the best one so far; in logs of earlier versions, by the best accuracy before it."""
        return self.accuracy > accuracy if self.is_best is None else self.is_best


class FullEvalCompleted(Event, frozen=True, tag="full_eval"):
    """Result of an evaluation of the complete eval text, of which every `EvalCompleted` of the run scores a fixed part.

    Reported after epochs if the text is longer than the part, and at the end of a run that was not stopped.
    """

    step: int
    loss: float
    ppl: float
    accuracy: float
    bits_per_byte: float
    tokens: int


class LinesReproduced(Event, frozen=True, tag="lines_reproduced"):
    """Verdict of the self-test: how many of its lines greedy decoding reproduces from their beginning.

    `at_end` is False where it was requested before the last step.
    """

    step: int
    reproduced: int
    lines: int
    works: bool
    at_end: bool = True


class SampleWritten(Event, frozen=True, tag="sample", omit_defaults=True):
    """Text that continues the fixed `prompt`: before the first step, after evaluations, at the end; one per step.

    `copied` is the longest passage of it that occurs in the training text (`gpt_core.text.copied`), "" for none; None
    with a lossy tokenizer and in logs of earlier versions. `searched`: tokens at the start of the training text that
    were searched, 0 for all.
    `data`: bytes of the text where they are not valid UTF-8, otherwise empty; `text` then has U+FFFD in their place.
    """

    step: int
    prompt: str
    text: str
    copied: str | None = None
    searched: int = 0
    data: bytes = b""

    @property
    def exact_text(self) -> str:
        """The text with bytes that are not valid UTF-8 escaped, as prompts have them."""
        return self.data.decode("utf-8", "surrogateescape") if self.data else self.text


class GradientNorms(Event, frozen=True, tag="debug"):
    """Gradient norm and update norm of each tensor, every `debug_every` steps if `debug` is on."""

    step: int
    grad_norms: dict[str, float]
    update_norms: dict[str, float]


Numbers = tuple[float | None, ...]
"""Values, None for one that is unknown or not finite."""


class HeadsScored(Event, frozen=True, tag="heads"):
    """Scores of all attention heads at an evaluation: layer by head, both from 0.

    They are those of `gpt_core.interpret.head_scores`, on the beginning of the eval text, and on random sequences of
    its tokens, each repeated once. The model is the one that is evaluated: of a run with `ema`, the average.
    """

    step: int
    previous_token: tuple[Numbers, ...]
    first_token: tuple[Numbers, ...]
    induction: tuple[Numbers, ...]
    entropy: tuple[Numbers, ...]


class HealthMeasured(Event, frozen=True, tag="health"):
    """Health of the weights at an evaluation, one value per tensor.

    `grad_norms` are those of the step before it, before clipping; `update_ratios` are log10 of the norm of its update
    over that of the values (-3 is usual), measured on a part of large tensors. Both are unknown where no step has been
    taken, and the ratios where the evaluation was requested. `dead_units`: fraction of each layer's MLP units that
    never fire on the beginning of the eval text. Of a run with `ema`, `dead_units` are those of the average, which is
    evaluated, and all norms those of the weights that are trained. With local steps on several ranks, `grad_norms` and
    `update_ratios` are those of the step of rank 0, and unknown where the evaluation was requested.
    """

    step: int
    tensors: tuple[str, ...]
    norms: Numbers
    grad_norms: Numbers
    update_ratios: Numbers
    dead_units: Numbers


class InductionHeadAppeared(Event, frozen=True, tag="induction_head"):
    """First head of the run whose induction score has reached `gpt_core.training.model_stats.INDUCTION_THRESHOLD`.

    `layer` and `head` count from 0. Once per run: the training state keeps it.
    """

    step: int
    layer: int
    head: int
    score: float


class ExchangeMeasured(Event, frozen=True, tag="exchange"):
    """Exchange by rank 0 in the steps of this session, of a run on several ranks: of gradients, or once per round.

    Reported after each evaluation and at the end of a run that was not stopped. `sent_bytes` counts what rank 0 has
    sent. `exchange_s` is the time of the exchange, and `waited_s` the part of it during which no backward pass was in
    progress. `training_s` is the time of the steps without evaluations.
    """

    step: int
    steps: int
    sent_bytes: int
    exchange_s: float
    waited_s: float
    training_s: float


class CheckpointSaved(Event, frozen=True, tag="saved"):
    """A checkpoint was written and synced to disk. `kind` is latest, epoch, best or final."""

    kind: str
    path: str
    step: int


class SaveFailed(Event, frozen=True, tag="save_failed"):
    """A checkpoint could not be written. The previous one is unchanged and training continues."""

    kind: str
    path: str
    step: int
    error: str


class LogFailed(Event, frozen=True, tag="log_failed"):
    """A line of `metrics.jsonl` could not be written, and later ones may be missing, too. Displayed, but not logged.

    Training continues. A session of a run has at most one such event. `error` is the path and the reason.
    """

    step: int
    error: str


class RoundAwaited(Event, frozen=True, tag="round_awaited"):
    """A requested stop or pause waits for the end of a round of local steps. Displayed, but not logged.

    `request` is stop or pause; `until` is the step after which the round ends.
    """

    step: int
    request: str
    until: int


class RunPaused(Event, frozen=True, tag="paused"):
    """The run is paused at a step boundary."""

    step: int


class RunContinued(Event, frozen=True, tag="continued"):
    """The run continues after a pause."""

    step: int


class RunFinished(Event, frozen=True, tag="finished", omit_defaults=True):
    """The last event of a run.

    `reason` is one of: max_steps, max_epochs, deadline (the time budget is used), early_stopping, epsilon,
    overfit_done, stopped, diverged. For a diverged run, `good_checkpoint` is the one to resume, "" if there is none,
    and `good_step` is its step. Such a run ended, or was stopped after `LossDiverged`, with `loss` far above
    `guessing_loss`; both are 0 if losses or gradients were not finite. `saved` is False if a run that did not diverge
    has a last state that `ckpt_latest` does not hold.
    """

    reason: str
    step: int
    good_checkpoint: str = ""
    good_step: int = 0
    loss: float = 0.0
    guessing_loss: float = 0.0
    saved: bool = True


LOGGED = (
    RunStarted, BaselinesMeasured, StepCompleted, UpdateSkipped, EvalCompleted, FullEvalCompleted, LinesReproduced,
    SampleWritten, GradientNorms, HeadsScored, HealthMeasured, InductionHeadAppeared, ExchangeMeasured,
    CheckpointSaved, SaveFailed, LossDiverged, RunPaused, RunContinued, PlanMade, RunFinished,
)  # fmt: skip

AnyEvent = (
    RunStarted | BaselinesMeasured | StepCompleted | UpdateSkipped | EvalProgressed | EvalCompleted | FullEvalCompleted
    | LinesReproduced | SampleWritten | GradientNorms | HeadsScored | HealthMeasured | InductionHeadAppeared
    | ExchangeMeasured | CheckpointSaved | SaveFailed | LogFailed | LossDiverged | RoundAwaited | RunPaused
    | RunContinued | PlanMade | RunFinished
)  # fmt: skip


def to_json(event: Event) -> bytes:
    """Return the event as one line of JSON without a newline; numbers have full precision."""
    return msgspec.json.encode(event)


_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def from_json(line: bytes | str) -> AnyEvent:
    """Return the event that `to_json` wrote. Raises `msgspec.DecodeError` for anything else.

    JSON has no NaN: numbers that are not finite, as of an evaluation of a run that diverges, are written as null.
    """
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError:
        fields = msgspec.json.decode(line)
        event: AnyEvent = msgspec.convert(_with_nan(fields), AnyEvent)
        return event


def _with_nan(value: object) -> object:
    """Return a value of JSON with NaN for null, also in tables."""
    if isinstance(value, dict):
        return {name: _with_nan(each) for name, each in value.items()}
    return nan if value is None else value


def from_json_lines(lines: bytes) -> list[AnyEvent]:
    """Return the events of complete lines, in order; incomplete and unknown lines are skipped."""
    try:
        return _DECODER.decode_lines(lines)
    except (ValueError, RecursionError):
        return [event for line in lines.splitlines() if (event := _event_or_none(line))]


def _event_or_none(line: bytes) -> AnyEvent | None:
    try:
        return from_json(line)
    except (ValueError, RecursionError):
        return None
