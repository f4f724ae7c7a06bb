"""Headless resumes: settings, steps, limits, scores, and another text."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from gpt_core.config.settings import GROUP_RATES
from gpt_core.errors import EXIT_BAD_INPUT
from gpt_core.formats.checkpoint import peek_checkpoint, verify_checkpoint
from gpt_tui.shared.formatting import percent
from tests.headless.conftest import LATEST, run_until, step_of
from tests.program import run_program, start_program, tiny


def test_resume_keeps_the_settings_and_the_step_count(folder: Path) -> None:
    assert run_program("--train-only", "--max-steps", "3", *tiny(), cwd=folder).returncode == 0
    resumed = run_program("--train-only", "--resume", "--max-steps", "5", "--json", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    steps = [json.loads(line)["step"] for line in resumed.stdout.splitlines() if '"event":"step"' in line]
    assert steps == [4, 5]
    moved = folder / "elsewhere"
    (folder / "models").rename(moved)
    again = run_program(
        "--train-only", "--resume", str(moved / LATEST.name), "--max-steps", "6", "--threads", "1", cwd=folder
    )
    assert again.returncode == 0, again.stderr
    assert verify_checkpoint(moved / LATEST.name).step == 6
    assert not (folder / "models").exists()


@pytest.mark.slow
def test_resume_without_max_steps_trains_past_the_earlier_limit(folder: Path) -> None:
    assert run_program("--train-only", "--max-steps", "3", *tiny(), cwd=folder).returncode == 0
    with start_program("--train-only", "--resume", "--json", cwd=folder) as process:
        run_until(process, lambda event: step_of(event) == 6)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


@pytest.mark.slow
def test_a_resume_of_a_finished_run_says_which_limit_it_raises(folder: Path) -> None:
    run_program("--train-only", *tiny("max_epochs=1", "warmup_steps=1"), cwd=folder)
    more = run_program("--train-only", "--resume", cwd=folder)
    assert "gpt-tui: the run had reached max_epochs=1: max_epochs is now 2; set max_epochs=N" in more.stderr
    named = run_program("--train-only", "--resume", "--set", "max_epochs=5", cwd=folder)
    assert "had reached" not in named.stderr
    run_program("--train-only", "--max-steps", "5", *tiny(), "--models-dir", "other", cwd=folder)
    lifted = run_program("--train-only", "--resume", "--models-dir", "other", cwd=folder)
    assert "the run had reached max_steps=5: it is lifted; set max_steps=N for another limit" in lifted.stderr
    assert "set max_steps=N for another limit; without one, the run continues to max_epochs=" in lifted.stderr


@pytest.mark.slow
def test_a_resume_of_a_finished_run_without_a_larger_limit_says_how_to_give_it_more(folder: Path) -> None:
    run_program("--train-only", "--max-steps", "5", *tiny(), cwd=folder)
    same = run_program("--train-only", "--resume", "--max-steps", "5", cwd=folder)
    assert "no step left to train (max_steps is 5); to train longer, resume with a larger max_steps" in same.stdout
    less = run_program("--train-only", "--resume", "--max-steps", "4", cwd=folder)
    assert less.returncode == EXIT_BAD_INPUT
    reached = f"--max-steps: got 4, expected at least 5, which {LATEST} has reached"
    assert less.stderr.splitlines()[-1].startswith(f"gpt-tui: {reached}")
    more = run_program("--train-only", "--resume", "--max-steps", "8", cwd=folder)
    assert "finished: 8 steps" in more.stdout


@pytest.mark.slow
def test_a_self_test_is_resumed_past_the_epochs_of_a_run(folder: Path) -> None:
    settings = tiny("overfit_lines=2", "overfit_steps=6", "max_epochs=1")
    run_program("--train-only", "--overfit-tiny", *settings, cwd=folder)
    (saved,) = (folder / "models").rglob(LATEST.name)
    assert verify_checkpoint(saved).state.epoch > 1
    more = run_program("--train-only", "--resume", str(saved), "--set", "overfit_steps=8", cwd=folder)
    assert "finished: 8 steps" in more.stdout, more.stderr


@pytest.mark.slow
def test_a_headless_resume_knows_the_best_score_and_the_losses_from_before(folder: Path) -> None:
    """The rates of the resumed part ruin the model, so none of its scores is the best one."""
    settings = tiny("eval_every_steps=20", "max_epochs=1000", "best_metric=accuracy")
    first = run_program("--train-only", "--max-steps", "60", *settings, cwd=folder)
    assert first.returncode == 0, first.stderr
    best = peek_checkpoint(folder / "models/best_model.safetensors").state
    rates = [part for name in GROUP_RATES for part in ("--set", f"{name}=1.0")]
    second = run_program("--train-only", "--resume", "--max-steps", "80", *rates, cwd=folder)
    (scored,) = [line for line in second.stdout.splitlines() if line.startswith("eval at step 80: eval loss ")]
    assert "best" not in scored
    (ended,) = [line for line in second.stdout.splitlines() if line.startswith("diverged: 80 steps")]
    assert f"best eval accuracy {percent(best.best_accuracy)} at step {best.best_step}" in ended


@pytest.mark.slow
def test_a_resume_with_another_eval_text_says_that_a_new_best_begins(folder: Path) -> None:
    settings = tiny("eval_every_steps=5")
    run_program("--train-only", "--max-steps", "10", *settings, cwd=folder)
    (folder / "other.en").write_text("zqxj vkwq jjxz qqkv wvzx.\n\n" * 20)
    run = run_program("--train-only", "--resume", "--max-steps", "15", "--eval-file", "other.en", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert any(line.startswith("another eval text: a new best score") for line in run.stdout.splitlines())
    assert "best " in next(line for line in run.stdout.splitlines() if line.startswith("eval at step 15"))


@pytest.mark.slow
def test_a_resume_with_another_training_text_says_that_its_tokenizer_is_that_of_the_earlier_text(folder: Path) -> None:
    run_program("--train-only", "--max-steps", "3", *tiny(), cwd=folder)
    (folder / "zh.txt").write_text("老人慢慢地走过旧桥，没有说话。\n\n" * 60, encoding="utf-8")
    run = run_program("--train-only", "--resume", "--max-steps", "4", "--train-file", "zh.txt", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "another training text: the tokenizer is still that of the earlier text (1." in run.stderr
    same = run_program("--train-only", "--resume", "--max-steps", "5", cwd=folder)
    assert "another training text" not in same.stderr


@pytest.mark.slow
def test_the_summary_of_a_resume_with_another_eval_text_has_no_score_of_the_old_one(folder: Path) -> None:
    run_program("--train-only", "--max-steps", "10", *tiny("eval_every_steps=5"), cwd=folder)
    (folder / "other.en").write_text("zqxj vkwq jjxz qqkv wvzx.\n\n" * 20)
    run = run_program("--train-only", "--resume", "--max-steps", "10", "--eval-file", "other.en", cwd=folder)
    assert run.returncode == 0, run.stderr
    summary = next(line for line in run.stdout.splitlines() if line.startswith("finished: "))
    assert "eval loss" not in summary
