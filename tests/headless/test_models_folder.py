"""The files of another run, and a models folder that moves or cannot be written."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.training.trainer import Trainer
from gpt_tui.cli import main as cli
from gpt_tui.headless.signals import RunSignals
from tests.headless.conftest import LATEST, run_until, step_of
from tests.program import run_program, start_program, tiny

KEPT = "no checkpoint saved in models: the earlier run's files were kept"


def test_the_checkpoints_of_another_run_are_kept_without_overwrite(folder: Path) -> None:
    first = ["--train-only", "--max-steps", "2", *tiny()]
    assert run_program(*first, cwd=folder).returncode == 0
    before = (folder / LATEST).read_bytes()
    refused = run_program(*first, "--seed", "1", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert all(option in refused.stderr for option in ("--resume", "--models-dir models-2", "--overwrite"))
    assert (folder / LATEST).read_bytes() == before
    assert run_program(*first, "--seed", "1", "--overwrite", cwd=folder).returncode == 0
    assert (folder / LATEST).read_bytes() != before


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder except the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("which", ["--train-file", "--eval-file"])
def test_overwrite_with_an_invalid_text_removes_no_checkpoint(folder: Path, which: str) -> None:
    assert run_program("--train-only", "--max-steps", "20", *tiny(), cwd=folder).returncode == 0
    before = files_in(folder / "models")
    (folder / "blank.txt").write_text("\n\n \n")
    refused = run_program("--train-only", "--overwrite", which, "blank.txt", *tiny(), cwd=folder)
    assert refused.returncode == 2
    assert "blank.txt" in refused.stderr
    assert files_in(folder / "models") == before
    assert run_program("--train-only", "--resume", "--max-steps", "21", cwd=folder).returncode == 0


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("is_prepared", [pytest.param(False, id="while preparing"), pytest.param(True, id="at step 0")])
def test_overwrite_interrupted_before_the_first_step_reports_that_the_earlier_run_was_kept(
    is_prepared: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["--train-only", "--max-steps", "2", *tiny()]) == 0
    before = files_in(folder / "models")
    capsys.readouterr()
    watch = RunSignals.watch

    def interrupt(signals: RunSignals, trainer: Trainer) -> None:
        if is_prepared:
            watch(signals, trainer)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunSignals, "watch", interrupt)
    assert cli.main(["--train-only", "--max-steps", "2", "--seed", "1", "--overwrite", *tiny()]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "kept" in line] == [f"gpt-tui: {KEPT}"]
    after = files_in(folder / "models")
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("max_steps", ["2", "3"])
def test_overwrite_reports_kept_files_only_if_it_ends_without_a_step(
    max_steps: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for models_dir in ("models", "other"):
        assert cli.main(["--train-only", "--max-steps", "2", "--models-dir", models_dir, *tiny()]) == 0
    before = (folder / LATEST).read_bytes()
    capsys.readouterr()
    resume = ["--resume", "other/ckpt_latest.safetensors", "--models-dir", "models", "--overwrite"]
    assert cli.main(["--train-only", "--max-steps", max_steps, *resume]) == 0
    is_kept = max_steps == "2"
    assert ((folder / LATEST).read_bytes() == before) == is_kept
    assert (KEPT in capsys.readouterr().err) == is_kept


@pytest.mark.slow
def test_a_models_folder_moved_during_a_run_is_recreated_by_the_last_save(folder: Path) -> None:
    with start_program("--train-only", "--json", *tiny("max_epochs=1000000", "patience=0"), cwd=folder) as process:
        run_until(process, lambda event: step_of(event) >= 5)
        (folder / "models").rename(folder / "moved")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        rest = process.stdout.read()
    assert process.returncode == 130
    last = json.loads(rest.splitlines()[-1])["step"]
    assert peek_checkpoint(folder / LATEST).step == last
    resumed = run_program("--train-only", "--resume", "--max-steps", str(last + 1), cwd=folder)
    assert resumed.returncode == 0, resumed.stderr


def test_a_run_that_cannot_be_saved_in_its_folder_is_saved_beside_it_and_exits_with_1(folder: Path) -> None:
    with start_program("--train-only", "--json", *tiny("max_epochs=1000000", "patience=0"), cwd=folder) as process:
        run_until(process, lambda event: step_of(event) >= 5)
        (folder / "models").rename(folder / "moved")
        (folder / "models").write_text("not a folder")
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.returncode == 1
    assert [event["event"] for event in rest[-3:]] == ["save_failed", "saved", "finished"]
    assert peek_checkpoint(folder / rest[-2]["path"]).step == rest[-1]["step"]
    resumed = run_program(
        "--train-only", "--resume", rest[-2]["path"], "--max-steps", str(rest[-1]["step"] + 1), cwd=folder
    )
    assert resumed.returncode == 0, resumed.stderr
