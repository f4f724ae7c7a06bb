"""`gpt-tui train --init-from`: what a headless run prints, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gpt_tui.cli import main as cli
from tests.headless.conftest import LATEST
from tests.program import run_program, tiny, write_texts

TEXT = "A ship lay in the harbour, and the wind was in the north.\n\n" * 80


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model and another text, my.txt."""
    folder = tmp_path_factory.mktemp("trained")
    write_texts(folder)
    run = run_program("--train-only", "--max-steps", "6", *tiny(), cwd=folder)
    assert run.returncode == 0, run.stderr
    (folder / "my.txt").write_text(TEXT)
    return folder


@pytest.fixture
def start(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(trained, tmp_path / "start"))


FINE_TUNE = ("train", "--init-from", str(LATEST), "--train-file", "my.txt", "--models-dir", "tuned")


@pytest.mark.slow
def test_the_first_lines_say_what_is_fine_tuned_and_how_good_it_is_before(start: Path) -> None:
    run = run_program(*FINE_TUNE, "--max-steps", "4", "--set", "eval_every_steps=2", cwd=start)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith("fine-tuning a custom model: ")
    assert lines[0].endswith("; weights and tokenizer of models/ckpt_latest.safetensors (step 6)")
    (first,) = (line for line in lines[:5] if line.startswith("eval before fine-tuning: eval loss "))
    before = first.split("eval loss ")[1].split(",")[0]
    (later,) = (line for line in lines if line.startswith("eval at step 2:"))
    assert later.endswith(f"before fine-tuning {before})")
    (finished,) = (line for line in lines if line.startswith("finished: "))
    assert f"eval loss {before} before fine-tuning, " in finished


@pytest.mark.slow
def test_the_command_repeated_with_resume_knows_the_score_from_before_and_needs_no_file(start: Path) -> None:
    assert run_program(*FINE_TUNE, "--max-steps", "2", cwd=start).returncode == 0
    (start / LATEST).unlink()
    (start / "tuned/metrics.jsonl").unlink()
    resumed = run_program(*FINE_TUNE, "--resume", "--max-steps", "4", "--set", "eval_every_steps=4", cwd=start)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from tuned/" in resumed.stdout
    assert "before fine-tuning" in resumed.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--init-from", "missing.safetensors"], "--init-from: missing.safetensors: No such file"),
        (["--init-from", "models"], "--init-from: models: is a folder"),
        (["--init-from", "my.txt"], "--init-from: my.txt is not a gpt-tui checkpoint"),
        (["--init-from", str(LATEST), "--set", "d_model=64"], "d_model is 16 in it, 64 was requested (--set)"),
        (
            ["--init-from", str(LATEST), "--set", "freeze=layers 1"],
            "freeze: got 'layers 1', expected layers from 0 to 0",
        ),
        (["--init-from", str(LATEST)], "models holds another run's checkpoints"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line_and_writes_nothing(
    start: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(start)
    before = sorted(path.name for path in start.rglob("*") if "tokens" not in path.name)
    assert cli.main(["train", *arguments, "--train-file", "my.txt"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gpt-tui: ")
    assert words in error
    assert sorted(path.name for path in start.rglob("*") if "tokens" not in path.name) == before


@pytest.mark.slow
def test_verify_resume_compares_runs_that_start_from_weights(start: Path) -> None:
    run = run_program(
        "verify-resume", "--json", "--steps", "5", "--cut", "2", "--init-from", str(LATEST), "--train-file", "my.txt",
        "--set", "eval_every_steps=2", cwd=start,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert [row["detail"] for row in json.loads(run.stdout)["rows"][:2]] == ["5 events", "4 events"]


def test_tokenize_uses_the_tokenizer_of_the_start(start: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(start)
    assert cli.main(["tokenize", "my.txt", "--init-from", str(LATEST)]) == 0
    assert f"with the tokenizer of {LATEST}" in capsys.readouterr().out
