"""`gpt-tui` and `gpt-tui train`: the run that the options request, with and without a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_core.config.resolve import read_overrides
from gpt_core.training.request import RunRequest
from gpt_tui.cli import main as cli
from gpt_tui.cli import train
from tests.cli.conftest import Result
from tests.program import Terminal, run_program


def test_the_app_without_a_terminal_suggests_train(tmp_path: Path) -> None:
    run = run_program(cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("gpt-tui: the app needs a terminal, but standard input is not one")
    assert "use `gpt-tui train` instead" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_app_on_a_dumb_terminal_suggests_train(tmp_path: Path) -> None:
    terminal = Terminal(cwd=tmp_path, TERM="dumb")
    assert terminal.end() == 2
    assert "TERM is dumb; use `gpt-tui train` instead" in terminal.shown


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ([], False),
        (["--preset", "micro"], False),
        (["--overfit-tiny"], True),
        (["--overwrite"], True),
        (["--resume", "models/ckpt_latest.safetensors"], True),
    ],
)
def test_the_app_starts_the_requested_run(
    arguments: list[str], starts: bool, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[RunRequest, dict[str, object]]] = []
    monkeypatch.chdir(trained)
    monkeypatch.delenv("OVERFIT_TINY", raising=False)
    monkeypatch.setattr(train, "require_terminal", lambda: None)
    monkeypatch.setattr("gpt_tui.app.launch.run_app", lambda request, **options: calls.append((request, options)) or 7)
    assert cli.main(arguments) == 7
    ((request, options),) = calls
    assert options["autostart"] == starts
    assert request.overwrite == ("--overwrite" in arguments)
    assert request.settings.d_model == (16 if "--resume" in arguments else 320 if "micro" in arguments else 128)


def test_train_is_equivalent_to_train_only(trained: Path, program: Callable[..., Result]) -> None:
    run = program("train", "--resume", "--json", "--max-steps", "6", "--models-dir", "models")
    assert run.returncode == 0, run.stderr
    assert '"event":"finished"' in run.stdout


@pytest.mark.parametrize(
    ("options", "minutes"),
    [
        ({}, 5.0),
        ({"options": {"train_file": "own.txt", "seed": 3}}, 5.0),
        ({"options": {"max_steps": 100}}, 0.0),
        ({"options": {"minutes": 30}}, 0.0),
        ({"assignments": ["layers=2"]}, 0.0),
        ({"preset": "micro"}, 0.0),
    ],
)
def test_a_first_start_trains_for_five_minutes_unless_length_or_model_is_requested(
    options: dict[str, Any], minutes: float
) -> None:
    assert train.first_minutes(read_overrides(**options)) == minutes
