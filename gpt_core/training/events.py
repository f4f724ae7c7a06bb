"""What a training run tells the world: one stream of frozen events of plain values.

The trainer yields these; the app, the headless run and `metrics.jsonl` read them. `to_json` gives the one-line form
that `--json` prints and `metrics.jsonl` holds. Losses are in nats, times in seconds.
"""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, tag_field="event"):
    """Base of all events."""


class RunStarted(Event, frozen=True, tag="started", omit_defaults=True):
    """The run is ready to take its first step, at `step` (0, or the resumed checkpoint's).

    `kind` is "train" or "overfit-tiny"; `steps_per_epoch` and `max_steps` bound the progress bars (0: no bound).
    `warnings`: a line for each damaged checkpoint that `resumed_from` stands in for, and one where the disk is too
    small for two more.
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
    warnings: tuple[str, ...] = ()


class StepCompleted(Event, frozen=True, tag="step"):
    """One optimizer step. `tokens` counts all targets so far; `grad_norm` is the global norm before clipping."""

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
    """The loss or the gradient of this step was not finite, so no weight was changed; `in_a_row` counts them."""

    step: int
    in_a_row: int
    reason: str


class LossDiverged(Event, frozen=True, tag="loss_diverged", omit_defaults=True):
    """The train loss is far above `guessing_loss`, that of giving every token the same probability. Training continues.

    `loss` is the median of the last steps. `good_checkpoint` is the newest one from before, "" if there is none, and
    `good_step` its step. Meanwhile ckpt_latest is saved only on request.
    """

    step: int
    loss: float
    guessing_loss: float
    good_checkpoint: str = ""
    good_step: int = 0


class EvalProgressed(Event, frozen=True, tag="eval_progress"):
    """An evaluation is under way: `done` of `total` tokens. Shown, never logged."""

    step: int
    done: int
    total: int


class EvalCompleted(Event, frozen=True, tag="eval"):
    """The whole eval text was scored: mean loss in nats a token, token accuracy, bits a byte of the text."""

    step: int
    loss: float
    ppl: float
    accuracy: float
    bits_per_byte: float


class SampleWritten(Event, frozen=True, tag="sample"):
    """What the model goes on with from the same `prompt` each time: before the first step and after each evaluation."""

    step: int
    prompt: str
    text: str


class GradientNorms(Event, frozen=True, tag="debug"):
    """With `debug`: per-tensor gradient and update norms, every `debug_every` steps."""

    step: int
    grad_norms: dict[str, float]
    update_norms: dict[str, float]


class CheckpointSaved(Event, frozen=True, tag="saved"):
    """A checkpoint is on disk, synced. `kind` is latest, epoch, best or final."""

    kind: str
    path: str
    step: int


class SaveFailed(Event, frozen=True, tag="save_failed"):
    """A checkpoint could not be written; the previous one is whole and training goes on."""

    kind: str
    path: str
    step: int
    error: str


class RunPaused(Event, frozen=True, tag="paused"):
    """The run waits at a step boundary until it is told to go on."""

    step: int


class RunContinued(Event, frozen=True, tag="continued"):
    """The run goes on after a pause."""

    step: int


class RunFinished(Event, frozen=True, tag="finished", omit_defaults=True):
    """The last event of a run.

    `reason` is one of: max_steps, max_epochs, early_stopping, epsilon, overfit_done, stopped, diverged. After a run
    that diverged, `good_checkpoint` is the one to go on from, "" if there is none, and `good_step` its step. Such a run
    ended with `loss` far above `guessing_loss`; both are 0 if losses or gradients were not finite.
    """

    reason: str
    step: int
    good_checkpoint: str = ""
    good_step: int = 0
    loss: float = 0.0
    guessing_loss: float = 0.0


LOGGED = (
    RunStarted, StepCompleted, UpdateSkipped, EvalCompleted, SampleWritten, GradientNorms, CheckpointSaved, SaveFailed,
    LossDiverged, RunFinished,
)  # fmt: skip

AnyEvent = (
    RunStarted | StepCompleted | UpdateSkipped | EvalProgressed | EvalCompleted | SampleWritten | GradientNorms
    | CheckpointSaved | SaveFailed | LossDiverged | RunPaused | RunContinued | RunFinished
)  # fmt: skip


def to_json(event: Event) -> bytes:
    """One line of JSON, without a line end; numbers keep full precision."""
    return msgspec.json.encode(event)


_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def from_json(line: bytes | str) -> AnyEvent:
    """The event that `to_json` wrote. Raises `msgspec.DecodeError` for anything else."""
    return _DECODER.decode(line)


def from_json_lines(lines: bytes) -> list[AnyEvent]:
    """The events of whole lines, in order; torn and foreign lines are left out."""
    try:
        return _DECODER.decode_lines(lines)
    except (ValueError, RecursionError):
        return [event for line in lines.splitlines() if (event := _event_or_none(line))]


def _event_or_none(line: bytes) -> AnyEvent | None:
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError):
        return None
