"""A models folder with every kind of file: valid, damaged in two ways, not ours, no optimizer state, in a subfolder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import write_checkpoint
from gpt_core.model.scores import EvalScores
from tests.core.checkpoint_samples import sample

NOW_S = 1_800_000_000.0  # 15 January 2027, 08:00 UTC
SMALL = msgspec.structs.replace(
    preset("nano"), d_model=8, hidden_size=12, vocab_size=260, num_heads=2, seq_len=4, layers=2
)


def save(path: Path, age_s: float, *, settings: Settings = SMALL, **state: object) -> Path:
    """Write a checkpoint, saved `age_s` seconds before NOW_S."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values: dict[str, object] = {
        "train_loss": 3.21,
        "step_loss": 3.25,
        "last_eval": EvalScores(12_000, 3.456, 0.3124, 2.468),
        "best_accuracy": 0.3124,
        "best_step": 12_000,
    }
    write_checkpoint(path, sample(settings, **(values | state)), saved_at=NOW_S - age_s)  # type: ignore[arg-type]
    return path


def flip(path: Path, at: int) -> Path:
    """Flip the lowest bit of the byte at `at`."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return path


def fill(folder: Path) -> None:
    """Write one file of every kind."""
    save(folder / "ckpt_latest.safetensors", 65, step=12_480, epoch=13, tokens=12_779_520, elapsed_s=1300.0)
    save(folder / "best_model.safetensors", 400, step=12_000, epoch=13)
    flip(save(folder / "epoch_010.safetensors", 4000, step=9_000, epoch=10, train_loss=None, step_loss=None), -100)
    save(
        folder / "transformer.safetensors",
        90_000,
        step=500,
        optimizer_state=False,
        finished="max_steps",
        best_accuracy=-1.0,
    )
    save(folder / "long" / "ckpt_latest.safetensors", 900_000, step=1_234_567, run_id="run-b")
    cut = save(folder / "epoch_020.safetensors", 50, step=18_000)
    cut.write_bytes(cut.read_bytes()[:3000])
    (folder / "bert.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    for path in (cut, folder / "bert.safetensors"):
        os.utime(path, (NOW_S - 7200, NOW_S - 7200))
