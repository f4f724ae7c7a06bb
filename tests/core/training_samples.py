"""A tiny run on a few kilobytes of text, for the tests of training."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_core import files
from gpt_core.config.settings import Settings
from gpt_core.optim.adamw import AdamW
from gpt_core.progress import Progress, ignore_progress
from gpt_core.training import events as ev
from gpt_core.training import setup, timing
from gpt_core.training.request import RunRequest
from gpt_core.training.trainer import Trainer

LATEST = Path("models/ckpt_latest.safetensors")
"""Path of ckpt_latest below the folder of a tiny run."""

SENTENCES = (
    "It was a truth that nobody in the village doubted.",
    "She walked to the gate, and there she waited for her sister.",
    "He had said very little; but what he said was kind.",
    "The carriage came early, and the rain came with it.",
)


class StepClock:
    """Replaces the clock of training: time passes in updates alone, `step_s` seconds in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step_s = 0.0, 0.5
        monkeypatch.setattr(timing, "time", self)
        update = AdamW.update

        def slow_update(*arguments: Any) -> None:
            self.now += self.step_s
            update(*arguments)

        monkeypatch.setattr(AdamW, "update", slow_update)

    def monotonic(self) -> float:
        """Return the present time."""
        return self.now


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Write a training text of 60 paragraphs and an eval text of 8, of a few sentences in random order."""
    random = np.random.default_rng(5)

    def paragraphs(count: int) -> str:
        return "\n\n".join(" ".join(random.choice(SENTENCES, size=3)) for _ in range(count)) + "\n"

    train, held_out = folder / "train.en", folder / "eval.en"
    train.write_text(paragraphs(60))
    held_out.write_text(paragraphs(8))
    return train, held_out


def tiny_settings(folder: Path, **changes: object) -> Settings:
    """Return settings of a model with a few thousand parameters on these texts; an epoch has about 12 steps."""
    train, held_out = write_texts(folder)
    values: dict[str, object] = {
        "d_model": 16, "hidden_size": 32, "vocab_size": 300, "num_heads": 2, "seq_len": 32, "layers": 2,
        "attn_lr": 1e-2, "mlp_lr": 1e-2, "norm_lr": 1e-2, "pos_lr": 1e-2, "unembed_lr": 1e-2,
        "warmup_steps": 4, "decay_steps": 40, "batch_size": 8, "micro_batch_size": 4,
        "max_epochs": 1000, "patience": 0, "eval_every_steps": 5,
        "save_every_steps": 0, "save_every_minutes": 0.0, "save_epoch_number": 0, "threads": 2,
        "train_file": str(train), "eval_file": str(held_out), "models_dir": str(folder / "models"),
    }  # fmt: skip
    return Settings(**(values | changes))  # type: ignore[arg-type]


def lines_are_lost(patch: pytest.MonkeyPatch, beginning: bytes = b'{"event":') -> None:
    """Let the lines of the log that begin so fail to be written, as on a full disk."""
    real = files.write_all

    def write(descriptor: int, data: bytes | memoryview) -> None:
        if bytes(data).lstrip(b"\n").startswith(beginning):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, data)

    patch.setattr(files, "write_all", write)


def open_run(
    settings: Settings, *, resume: Path | None = None, overwrite: bool = False, progress: Progress = ignore_progress
) -> Trainer:
    """Return the trainer of a run with these settings."""
    return setup.open_run(RunRequest(settings, resume=resume, overwrite=overwrite), progress)


def train(settings: Settings, resume: Path | None = None, *, overwrite: bool = False) -> list[ev.AnyEvent]:
    """Return all events of a run."""
    return list(open_run(settings, resume=resume, overwrite=overwrite).events())


def events_with(trainer: Trainer, step: int | None, action: Callable[[], object]) -> list[ev.AnyEvent]:
    """Return all events of a run, with an action after a step of it; None: after no step."""
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.StepCompleted) and event.step == step:
            action()
    return events


def losses(events: Sequence[ev.AnyEvent]) -> list[float]:
    """Return the loss of every step."""
    return [event.loss for event in events if isinstance(event, ev.StepCompleted)]


def of_kind(events: Sequence[ev.AnyEvent], kind: type[ev.Event]) -> list[ev.AnyEvent]:
    """Return the events of one class."""
    return [event for event in events if isinstance(event, kind)]


def whole_state(trainer: Trainer) -> tuple[bytes, ...]:
    """Return weights and optimizer state as bytes."""
    tensors = (trainer.parameters, *trainer.run.optimizer.state.values())
    return tuple(parameters.flat.tobytes() for parameters in tensors)


def finished_trainer(settings: Settings, resume: Path | None = None) -> tuple[Trainer, list[float]]:
    """Return the trainer of a run that has ended, and the loss of every step."""
    trainer = open_run(settings, resume=resume)
    return trainer, losses(list(trainer.events()))


def in_one_go(folder: Path, steps: int, **changes: object) -> tuple[Trainer, list[float]]:
    """Train in a new folder without a break; see `finished_trainer`."""
    folder.mkdir()
    return finished_trainer(tiny_settings(folder, max_steps=steps, **changes))
