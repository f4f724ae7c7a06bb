"""Lines about a run that may not be what the user expects: unused texts, a short run, the held-out part."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.program import run_program, tiny


@pytest.mark.slow
def test_texts_under_data_that_are_not_used_are_named_on_standard_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "book.txt").write_text("It was.\n")
    note = "data/ has book.txt, but not named train.en, train.txt, input.txt"
    for command in (("train", "--max-steps", "1"), ("bench", "--steps", "1"), ("tokenize", "data/book.txt")):
        run = run_program(*command, *tiny(), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert run.stderr.count(note) == 1
        assert "set train_file=data/book.txt" in run.stderr
    config = run_program("config", cwd=tmp_path)
    assert f"# note: {note}" in config.stdout
    named = run_program("train", *tiny("max_steps=1", "train_file=data/book.txt", "models_dir=m"), cwd=tmp_path)
    assert note not in named.stderr


def test_a_run_without_an_eval_file_says_that_it_is_evaluated_on_the_held_out_end_of_its_text(folder: Path) -> None:
    shutil.rmtree(folder / "data")
    (folder / "buch.txt").write_text("Über allen Gipfeln ist Ruh, in allen Wipfeln.\n\n" * 60, encoding="utf-8")
    run = run_program("--train-only", "--max-steps", "1", *tiny(), "--train-file", "buch.txt", cwd=folder)
    assert re.search(
        r"^text buch.txt: .* tokens, evaluated on its last .* tokens, which are held out", run.stdout, re.M
    )
    assert "finished: 1 step in" in run.stdout
    twice = run_program(
        "train",
        "--max-steps",
        "1",
        *tiny("models_dir=m"),
        *("--train-file", "buch.txt"),
        "--eval-file",
        "buch.txt",
        cwd=folder,
    )
    assert ", evaluated on buch.txt" in twice.stdout
    assert "held out" not in twice.stdout


def test_a_run_whose_epochs_end_within_the_warm_up_says_how_to_reach_the_full_rate(folder: Path) -> None:
    limits = tiny("max_epochs=1", "warmup_steps=500")
    run = run_program("--train-only", *limits, cwd=folder)
    assert run.returncode == 0, run.stderr
    steps = len(re.findall('"event":"step"', (folder / "models/metrics.jsonl").read_text()))
    assert f"a short run: max_epochs=1 gives {steps} steps, fewer than warmup_steps=500" in run.stderr
    assert f"add --set warmup_steps={steps // 10}, or for a longer run --set max_epochs=" in run.stderr
    assert "or gpt-tui --train-only --resume" in run.stdout


@pytest.mark.parametrize(("threshold", "is_said"), [("100", True), ("0", False)])
def test_a_run_whose_last_weights_are_not_the_best_says_which_ones_generate_text(
    folder: Path, threshold: str, is_said: bool
) -> None:
    """By a threshold that nothing reaches, the first evaluation stays the best one."""
    settings = tiny("max_steps=6", "eval_every_steps=2", "best_metric=loss", f"improvement_threshold={threshold}")
    run = run_program("train", *settings, cwd=folder)
    assert run.returncode == 0, run.stderr
    line = "evaluate use the best model, of step 2; --model models/ckpt_latest.safetensors is that of step 6"
    assert (line in run.stdout) == is_said
