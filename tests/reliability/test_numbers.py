"""Losses that are not finite are skipped, counted and reported; several in a row end the run without a save."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import verify_checkpoint
from tests.reliability.runs import LATEST, require_valid_checkpoints, run_to_completion, training

pytestmark = pytest.mark.slow

GROUPS = ("attn_lr", "mlp_lr", "norm_lr", "pos_lr", "unembed_lr")
WILD = [*(f"{group}=10" for group in GROUPS), "weight_decay=10", "warmup_steps=0", "save_every_steps=1"]


@pytest.mark.parametrize("adam_eps", ["1e-8", "1e-30"])
@pytest.mark.parametrize("grad_clip", ["0", "1"])
def test_excessive_learning_rates_end_the_run_with_a_reason_and_valid_checkpoints(
    folder: Path, grad_clip: str, adam_eps: str
) -> None:
    wild = training(*WILD, f"grad_clip={grad_clip}", f"adam_eps={adam_eps}")
    run = run_to_completion(*wild, "--max-steps", "500", cwd=folder)
    assert run.code == 1
    assert "Traceback" not in run.errors
    skipped = [event for event in run.events if event["event"] == "skipped"]
    assert [event["in_a_row"] for event in skipped][-5:] == [1, 2, 3, 4, 5]
    assert run.events[-1]["reason"] == "diverged"
    assert "ckpt_latest.safetensors" in run.errors  # the last good one
    require_valid_checkpoints(folder / "models", run.events)
    assert verify_checkpoint(folder / LATEST).step >= 1


def test_a_diverged_run_trains_on_after_a_resume_with_moderate_learning_rates(folder: Path) -> None:
    run_to_completion(*training(*WILD), "--max-steps", "500", cwd=folder)
    reached = verify_checkpoint(folder / LATEST).step
    sane = [*(f"{group}=1e-4" for group in GROUPS), "weight_decay=0"]
    again = run_to_completion(*training(*sane), "--resume", "--max-steps", str(reached + 3), cwd=folder)
    assert again.steps > reached


@pytest.mark.parametrize(
    "sampling", [["--temperature", "0"], ["--temperature", "100"], ["--top-k", "1000000"], ["--top-p", "0.000001"]]
)
def test_extreme_sampling_gives_text(folder: Path, sampling: list[str]) -> None:
    assert run_to_completion(*training(), "--max-steps", "2", cwd=folder).code == 0
    said = run_to_completion("generate", "The", "--max-tokens", "20", *sampling, cwd=folder)
    assert said.code == 0, said.errors
    assert said.out.startswith("The")


@pytest.mark.parametrize(
    "sampling", [["--temperature", "nan"], ["--temperature", "-1"], ["--top-p", "0"], ["--top-k", "-1"]]
)
def test_invalid_sampling_options_are_refused(folder: Path, sampling: list[str]) -> None:
    assert run_to_completion(*training(), "--max-steps", "2", cwd=folder).code == 0
    said = run_to_completion("generate", "The", *sampling, cwd=folder)
    assert said.code == 2
    assert said.errors.count("\n") == 1
