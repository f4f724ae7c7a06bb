"""A tiny trained model, and the program in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gpt_tui.cli import main as cli
from tests.program import run_program, tiny, write_texts


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model, trained for six steps and then evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    write_texts(folder)
    run = run_program("--train-only", "--max-steps", "6", *tiny("eval_every_steps=6"), cwd=folder)
    assert run.returncode == 0, run.stderr
    return folder


class Result(NamedTuple):
    """Exit code and output of a run of the program in this process."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def program(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run the program in this process, in the folder with the trained model.

    This saves the start of a process, about a quarter of a second per run.
    """

    def run(*arguments: str, cwd: Path = trained, input: str = "") -> Result:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode("utf-8", "surrogateescape"))))
        code = cli.main(arguments)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OVERFIT_TINY", raising=False)
    return tmp_path
