"""`gpt-tui export`: output, exit codes and the default checkpoint."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_core.bridges.export import ExportResult
from gpt_core.bridges.self_check import SelfCheck
from gpt_core.config.settings import QWEN3
from gpt_tui.cli.export import result_lines
from tests.bridges.samples import model, needs_tokenizers
from tests.cli.conftest import Result

RESULT = ExportResult(Path("a.gguf"), 9, SelfCheck(3, 3, 0.0), ())


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


def test_the_command_of_llama_cpp_quotes_the_path(program: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "sp ace" / "b c.gguf"
    assert f"llama-completion -m '{path}' -n " in program("export", "gguf", str(path)).stdout


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "option"),
    [
        ("pieces", "Er sagt\nnichts", r" -p '\xff\xff<bos>Er sagt nichts'"),
        ("pieces", r"C:\new", r" -p '\xff\xff<bos>C:\\new'"),
        ("pieces", "", r" -p '\xff\xff<bos>PROMPT'"),
        pytest.param("bpe", "Er sagt", " -p 'Er sagt'", marks=needs_tokenizers),
        pytest.param("bpe", "", " -p PROMPT", marks=needs_tokenizers),
    ],
)
def test_the_command_of_llama_cpp_has_the_prompt_of_the_samples(tokenizer: str, prompt: str, option: str) -> None:
    *_, hint = result_lines(model(tokenizer, sample_prompt=prompt, seq_len=512), "gguf", RESULT)
    assert hint == f"llama.cpp: llama-completion -m a.gguf -n 100{option}"


@pytest.mark.parametrize("layers", [{}, QWEN3])
def test_the_reply_of_the_command_of_llama_cpp_ends_within_the_context(layers: dict[str, Any]) -> None:
    own = model(sample_prompt="It was the best of times", **layers)
    prompt = 1 + len(own.tokenizer.encode(b"It was the best of times"))
    assert f" -n {64 - prompt} -p " in result_lines(own, "gguf", RESULT)[-1]
    filled = model(sample_prompt="It was the best of times. " * 9, **layers)
    placeholder = 1 + len(own.tokenizer.encode(b"PROMPT"))
    assert result_lines(filled, "gguf", RESULT)[-1].endswith(rf" -n {64 - placeholder} -p '\xff\xff<bos>PROMPT'")


def test_a_gguf_file_is_recognized_by_its_contents(program: Callable[..., Result], tmp_path: Path) -> None:
    path, text = tmp_path / "no-ending", tmp_path / "text.gguf"
    assert program("export", "gguf", str(path)).returncode == 0
    run = program("generate", "It was", "--model", str(path))
    assert run.returncode == 2
    assert f"{path} is a model in GGUF, expected a checkpoint; import it first: gpt-tui import {path}" in run.stderr
    refused = program("import", str(path), "--output", "own.bin")
    expected = "gpt-tui: --output: got own.bin, expected a name that ends in .safetensors\n"
    assert (refused.returncode, refused.stderr) == (2, expected)
    assert program("import", str(path), "--output", str(tmp_path / "own.safetensors")).returncode == 0
    text.write_text("this is no model")
    assert "is not a gpt-tui checkpoint" in program("generate", "It was", "--model", str(text)).stderr
    assert "does not begin with GGUF" in program("import", str(text)).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hf", "models"), "models exists already; remove it, or export to another path"),
        (("gguf", "models/best_model.safetensors/x"), "was not written: Not a directory; choose another path"),
        (("gguf", "x", "--type", "q4_0"), "--type: got 'q4_0', expected f32, f16, bf16 or q8_0 for gguf"),
        (("hf", "x", "--type", "f16"), "--type: got 'f16', expected f32 for hf"),
        (("html", "x", "--type", "f16"), "--type: got 'f16', expected f32, bf16 or int8 for html"),
        (("html", "models"), "models exists already; remove it, or export to another path"),
        (("onnx", "x"), "invalid choice: 'onnx'"),
        (("hf",), "PATH"),
        (("hf", ""), "PATH: got '', expected a path"),
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


@pytest.mark.parametrize(
    ("command", "option"),
    [("export gguf -", "PATH"), ("import MODEL --output -", "--output"), ("inspect text --html -", "--html")],
)
def test_a_dash_is_not_taken_for_the_name_of_a_file(
    command: str, option: str, program: Callable[..., Result], trained: Path
) -> None:
    run = program(*command.replace("MODEL", "models/best_model.safetensors").split())
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"gpt-tui: {option}: got '-', expected a path: this command cannot write to standard output\n"
    assert not (trained / "-").exists()


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (errno.EROFS, 2, "Read-only file system; choose another path"),
        (errno.ENOSPC, 1, "No space left on device; free some disk space, or choose another disk"),
    ],
)
@pytest.mark.parametrize(
    "command", ["export hf OUT", "import MODEL --output OUT.safetensors", "inspect text --html OUT"]
)
def test_a_file_that_cannot_be_created_has_one_code_and_remedy_in_all_commands(
    command: str,
    number: int,
    code: int,
    message: str,
    program: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert program("export", "hf", str(tmp_path / "MODEL")).returncode == 0

    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refused)
    words = [str(tmp_path / word) if word.startswith(("OUT", "MODEL")) else word for word in command.split()]
    run = program(*words)
    assert (run.returncode, run.stderr.count("\n")) == (code, 1)
    assert run.stderr.endswith(f" was not written: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["MODEL"]


@pytest.fixture
def _restored_signals() -> Iterator[None]:
    """Restore the handlers of signals, which the program leaves ignored when it was stopped by one."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("command", ["export gguf OUT", "export hf OUT", "import model --output OUT.safetensors"])
@pytest.mark.usefixtures("_restored_signals")
def test_a_signal_ends_an_export_and_an_import_and_leaves_nothing(
    command: str,
    number: int,
    code: int,
    program: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert program("export", "hf", str(tmp_path / "model")).returncode == 0
    write, writes = os.write, 0

    def interrupted(descriptor: int, data: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == 5:
            os.kill(os.getpid(), number)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", interrupted)
    words = [str(tmp_path / word) if word.startswith(("OUT", "model")) else word for word in command.split()]
    assert program(*words).returncode == code
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
