"""`gpt-tui export`: output, exit codes and the default checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Result


@pytest.mark.parametrize("format_name", ["hf", "gguf", "html"])
def test_export_prints_what_it_wrote_and_checked(
    format_name: str, program: Callable[..., Result], tmp_path: Path
) -> None:
    run = program("export", format_name, str(tmp_path / "out"))
    assert (run.returncode, run.stderr) == (0, "")
    first, second, *_ = run.stdout.splitlines()
    assert first.startswith("exported models/best_model.safetensors, step 6, to ")
    assert second.startswith("checked: ")
    assert second.endswith("differ by at most 0.0e+00")
    assert (tmp_path / "out").exists()


def test_export_takes_the_named_checkpoint_and_number_type(program: Callable[..., Result], tmp_path: Path) -> None:
    full, small = tmp_path / "full.gguf", tmp_path / "small.gguf"
    latest = ("--model", "models/ckpt_latest.safetensors")
    assert program("export", "gguf", str(full), *latest).stdout.startswith("exported models/ckpt_latest.safetensors")
    assert program("export", "gguf", str(small), *latest, "--type", "f16").returncode == 0
    assert small.stat().st_size < full.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hf", "models"), "models exists already; remove it, or export to another path"),
        (("gguf", "no/such.gguf"), "create the folder no first"),
        (("gguf", "x", "--type", "q4_0"), "--type: got 'q4_0', expected f32 or f16 or bf16 or q8_0 for gguf"),
        (("hf", "x", "--type", "f16"), "--type: got 'f16', expected f32 for hf"),
        (("html", "x", "--type", "f16"), "--type: got 'f16', expected f32 or bf16 or int8 for html"),
        (("html", "models"), "models exists already; remove it, or export to another path"),
        (("onnx", "x"), "invalid choice: 'onnx'"),
        (("hf",), "PATH"),
        (("hf", ""), "expected the name of a new file or folder"),
        (("hf", "x", "--model", "no.safetensors"), "no.safetensors: No such file"),
        (("hf", "x", "--models-dir", "empty"), "no checkpoint in empty"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...], message: str, program: Callable[..., Result], trained: Path
) -> None:
    before = sorted(trained.rglob("*"))
    run = program("export", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert sorted(trained.rglob("*")) == before
