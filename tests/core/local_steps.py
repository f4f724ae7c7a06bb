"""Tiny runs with rounds of local steps, and all that their checkpoints hold."""

from __future__ import annotations

from pathlib import Path

from gpt_core.config.settings import Settings
from gpt_core.training.trainer import Trainer
from tests.core.fake_ranks import FakeRank, settings_of, timeless, trainer_of

ROUND = 4
SHORT_EPOCH = {"seq_len": 60}
"""An epoch then has 82 windows: 11 steps, the last of which has two sequences."""


def local_settings(folder: Path, **changes: object) -> Settings:
    """Return settings of a tiny run with 8 micro-batches per step, and rounds of four local steps."""
    return settings_of(folder, **(SHORT_EPOCH | {"sync_every_steps": ROUND, "max_steps": 18} | changes))


def alone_settings(folder: Path, **changes: object) -> Settings:
    """Return such settings with two micro-batches per step."""
    return local_settings(folder, micro_batch_size=4, **changes)


def all_tensors(trainer: Trainer) -> tuple[bytes, ...]:
    """Return everything that a checkpoint holds per parameter as bytes."""
    run = trainer.run
    return tuple(each.flat.tobytes() for each in (run.parameters, run.evaluated, *run.saved_state.values()))


def trained(
    rank: FakeRank, settings: Settings, resume: Path | None = None
) -> tuple[list[object], tuple[bytes, ...], Trainer]:
    """Return the events that do not depend on time, all tensors at the end, and the trainer."""
    trainer = trainer_of(rank, settings, resume)
    return timeless(trainer.events()), all_tensors(trainer), trainer
