"""`gpt-tui generate`: prompts, sampling options and the continuation."""

from __future__ import annotations

import codecs
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Result
from tests.program import run_program


def test_generate_prints_only_the_prompt_and_its_continuation(program: Callable[..., Result], trained: Path) -> None:
    run = program("generate", "The cat", "--seed", "3")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("The cat")
    assert len(run.stdout) > len("The cat\n")
    assert run.stdout.endswith("\n")


def test_generate_is_reproducible_only_with_a_seed(program: Callable[..., Result], trained: Path) -> None:
    first, second, other = (program("generate", "The", "--seed", seed).stdout for seed in "112")
    assert first == second
    assert first != other
    unseeded = {program("generate", "The").stdout for _ in range(2)}
    assert len(unseeded) == 2


def test_generate_applies_the_sampling_options(program: Callable[..., Result], trained: Path) -> None:
    def reply(*options: str) -> str:
        return program("generate", "The", *options).stdout

    greedy = reply("--temperature", "0")
    assert {greedy, reply("--top-k", "1"), reply("--top-p", "0.000001")} == {greedy}
    assert greedy.startswith(reply("--temperature", "0", "--max-tokens", "3").rstrip("\n"))
    assert reply("--temperature", "0", "--repetition-penalty", "5") != greedy
    refused = program("generate", "The", "--top-p", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--top-p: got 0, expected" in refused.stderr


@pytest.mark.parametrize("prompt", [b"", b"\xff\xfe\x80 raw", "é東\U0001f600\n".encode() + b"\x1b[m"])
def test_any_bytes_are_a_valid_prompt(prompt: bytes, trained: Path) -> None:
    run = run_program("generate", "--seed", "1", "--max-tokens", "4", "--", prompt, cwd=trained)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(prompt.decode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        (b"The cat", "The cat"),
        (b"The cat\n", "The cat"),
        (b"\xef\xbb\xbfThe\r\n cat\r\n", "The\r\n cat"),
        ("Ein Käfer\n\n".encode(), "Ein Käfer\n"),
        (b"", ""),
    ],
)
def test_a_prompt_is_read_from_standard_input_and_from_a_file(
    given: bytes, prompt: str, program: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_bytes(given)
    options = ["--seed", "1", "--max-tokens", "4"]
    expected = program("generate", *options, "--", prompt)
    assert expected.returncode == 0
    assert expected.stdout.startswith(prompt)
    for arguments in (["--prompt-file", str(tmp_path / "prompt.txt")], ["-"], ["--prompt-file", "-"]):
        run = program("generate", *arguments, *options, input=given.decode())
        assert (run.returncode, run.stdout, run.stderr) == (0, expected.stdout, "")


@pytest.mark.parametrize("data", ["The cat".encode("utf-16-le"), b"The\0cat", b"\xff\xfe" + b"\1\0" * 9])
def test_a_prompt_file_that_is_not_text_is_refused(data: bytes, program: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(data)
    run = program("generate", "--prompt-file", str(tmp_path / "prompt.txt"))
    assert (run.returncode, run.stdout) == (2, "")
    assert re.search(r"prompt.txt: got .+, expected text; ", run.stderr), run.stderr


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_prompt_is_decoded_by_its_byte_order_mark(
    encoding: str, program: Callable[..., Result], tmp_path: Path
) -> None:
    data = "The café\r\n".encode(encoding)
    (tmp_path / "prompt.txt").write_bytes(data)
    piped = data.decode("utf-8", "surrogateescape")
    expected = program("generate", "The café", "--seed", "1", "--max-tokens", "4").stdout
    for arguments in (["--prompt-file", str(tmp_path / "prompt.txt")], ["-"]):
        run = program("generate", *arguments, "--seed", "1", "--max-tokens", "4", input=piped)
        assert (run.returncode, run.stdout, run.stderr) == (0, expected, "")


def test_a_prompt_that_is_not_in_the_encoding_of_its_byte_order_mark_is_refused(program: Callable[..., Result]) -> None:
    cut = "The café".encode("utf-16")[:-1].decode("utf-8", "surrogateescape")
    run = program("generate", "-", input=cut)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "gpt-tui: standard input is not utf-16: truncated data at byte 16; convert it to UTF-8\n"


def test_a_line_of_the_chat_that_is_not_text_is_refused_as_a_prompt_is(program: Callable[..., Result]) -> None:
    binary = bytes(range(11, 256)).replace(b"\r", b"").decode("utf-8", "surrogateescape")
    for arguments, name in ((["generate", "-"], "standard input"), (["chat"], "a line of standard input")):
        run = program(*arguments, input=binary)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr == f"gpt-tui: {name}: got binary data, expected text; name a text file\n"


def test_a_prompt_that_ends_inside_a_character_is_damaged_utf8(program: Callable[..., Result], tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    for mark, byte in ((b"", 17), (codecs.BOM_UTF8, 20)):
        prompt.write_bytes(mark + "It was\nnaïve café".encode()[:-1])
        run = program("generate", "--prompt-file", str(prompt))
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr == (
            f"gpt-tui: {prompt} is damaged UTF-8: got 0xc3 at byte {byte} (line 2), where it ends inside a "
            "character; remove the last byte\n"
        )


def test_a_prompt_that_is_not_utf8_is_refused_however_it_is_read(
    program: Callable[..., Result], tmp_path: Path
) -> None:
    data = "It was\nthe café\n".encode("cp1252")
    (tmp_path / "prompt.txt").write_bytes(data)
    piped = data.decode("utf-8", "surrogateescape")
    expected = (
        " is not UTF-8: got 0xe9 at byte 14 (line 2); it looks like cp1252 ('the café'): convert it to UTF-8 "
        "(`iconv -f cp1252 -t UTF-8`)\n"
    )
    for arguments, name in (
        (["generate", "--prompt-file", str(tmp_path / "prompt.txt")], str(tmp_path / "prompt.txt")),
        (["generate", "--prompt-file", "-"], "standard input"),
        (["generate", "-"], "standard input"),
        (["inspect", "-"], "standard input"),
    ):
        run = program(*arguments, input=piped)
        assert (run.returncode, run.stdout, run.stderr) == (2, "", f"gpt-tui: {name}{expected}")
    run = program("chat", "--max-tokens", "2", input=piped)
    assert run.returncode == 2
    assert run.stderr.startswith("gpt-tui: a line of standard input is not UTF-8: got 0xe9 at byte 7 (line 1), the")


def test_a_prompt_file_above_the_limit_is_refused(
    program: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_tui.cli.generate.MAX_PROMPT_BYTES", 1 << 20)
    (tmp_path / "prompt.txt").write_bytes(b"a" * ((1 << 20) + 1))
    run = program("generate", "--prompt-file", str(tmp_path / "prompt.txt"))
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.endswith("prompt.txt: got more than 1 MiB, expected at most that; keep only its end\n")


def test_generate_and_chat_say_how_much_of_a_long_prompt_is_read(program: Callable[..., Result]) -> None:
    prompt = "The cat sat on the mat. " * 200
    sampling = ("--seed", "1", "--max-tokens", "4")  # without a seed, some replies end at once, which is said, too
    for run in (
        program("generate", prompt, *sampling),
        program("generate", "-", *sampling, input=prompt),
        program("chat", *sampling, input=prompt),
    ):
        assert run.returncode == 0
        assert re.fullmatch(
            r"gpt-tui: the model reads only the last [\d,]+ of the prompt's [\d,]+ tokens\n", run.stderr
        ), run.stderr


def test_one_new_token_adds_text_to_a_prompt(program: Callable[..., Result]) -> None:
    for prompt in ("The cat", "The", "It was"):
        run = program("generate", prompt, "--max-tokens", "1", "--temperature", "0")
        assert run.stderr == ""
        assert len(run.stdout.removesuffix("\n")) > len(prompt)


def test_generate_replaces_characters_that_the_locale_cannot_encode(trained: Path) -> None:
    run = run_program("generate", "é — 東", "--seed", "1", "--max-tokens", "4", cwd=trained, PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("? ? ?")


def test_a_damaged_best_model_is_skipped_with_a_warning(
    program: Callable[..., Result], trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "models", tmp_path / "models")
    (tmp_path / "models" / "best_model.safetensors").write_bytes(b"not a checkpoint")
    run = program("generate", "The", "--max-tokens", "4", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stderr.startswith("gpt-tui: skipped: ")
    assert "best_model.safetensors" in run.stderr
