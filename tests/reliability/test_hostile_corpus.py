"""Unusual texts, and texts that change during training: each with its documented outcome.

Invalid UTF-8 is trained on as bytes; so are NULs and binary data with `allow_binary`, without which they are refused.
A text with nothing to learn is refused. A run trains on the text as read at its start, even if the file changes later.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_core.formats.checkpoint import verify_checkpoint
from tests.program import TEXT
from tests.reliability.counts import count
from tests.reliability.runs import (
    LATEST,
    Headless,
    require_one_line,
    require_valid_checkpoints,
    run_process,
    run_to_completion,
    training,
)

pytestmark = pytest.mark.slow

PLAIN = TEXT.encode()
PEAK_GROWTH_KB = 150_000  # memory that reading a text of any size may take
BINARY: dict[str, bytes] = {
    "NULs": bytes(5000),
    "binary": np.random.default_rng(0).bytes(20_000),
    "gzip": gzip.compress(np.random.default_rng(1).bytes(20_000)),
    "UTF-16": (PLAIN.decode() * 3).encode("utf-16-le"),
}
TRAINED: dict[str, bytes] = {
    "CRLF": PLAIN.replace(b"\n", b"\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "no line end": PLAIN.replace(b"\n", b" "),
    "carriage returns": PLAIN.replace(b"\n", b"\r"),
    "shorter than the context": b"Hi you.",
    "escape sequences": b"\x1b]0;pwned\x07\x1b[2J\xc2\x9b31m[red]x[/red]\n\n" * 50,
    "UTF-16 with a byte order mark": (PLAIN.decode() * 3).encode("utf-16"),
}
NOT_UTF8: dict[str, bytes] = {
    "invalid UTF-8": (PLAIN[:60] + b"\xff\xfe\x80\xc3( \xed\xa0\x80 \xf4\x90\x80\x80\n\n") * 50,
    "one byte in the second block": PLAIN * 300 + b"\xe4",
    "escape sequences in Latin-1": b"\x1b]0;pwned\x07\x1b[2J\x9b31m[red]x[/red]\n\n" * 50,
}
REFUSED = {
    "empty": (b"", "is empty"),
    "white space": (b" \n\t\n\r\n", "is empty"),
    "one byte": (b"a", "too short to hold out a part"),
    "only a byte order mark": (b"\xef\xbb\xbf", "is empty"),
}


@pytest.mark.parametrize("kind", [*TRAINED, *BINARY, "invalid UTF-8"])
def test_a_text_of_any_bytes_is_trained_on_and_decodes_to_the_same_bytes(folder: Path, kind: str) -> None:
    (folder / "text").write_bytes((TRAINED | BINARY | NOT_UTF8)[kind])
    settings = [] if kind in TRAINED else ["allow_binary=true"]
    run = run_to_completion(*training(*settings), "--train-file", "text", "--max-steps", "3", cwd=folder)
    assert run.code == 0, run.errors
    assert run.steps == 3
    require_valid_checkpoints(folder / "models", run.events)
    assert run_to_completion("tokenize", "text", "--model", str(LATEST), cwd=folder).code == 0


@pytest.mark.parametrize("option", ["--train-file", "--eval-file"])
@pytest.mark.parametrize("kind", BINARY)
def test_what_is_not_plain_text_is_refused_in_one_line(folder: Path, kind: str, option: str) -> None:
    (folder / "text").write_bytes(BINARY[kind])
    run = run_to_completion(*training(), option, "text", cwd=folder)
    require_one_line(run, 2, "text is not plain text: got ", "expected UTF-8", "set allow_binary=true")
    assert not list((folder / "models").glob("*.safetensors"))


@pytest.mark.parametrize("kind", NOT_UTF8)
def test_what_is_not_utf8_is_refused_wherever_its_first_byte_is(folder: Path, kind: str) -> None:
    (folder / "text").write_bytes(NOT_UTF8[kind])
    run = run_to_completion(*training(), "--train-file", "text", cwd=folder)
    assert run.code == 2
    expected = NOT_UTF8[kind].decode("utf-8", "backslashreplace").partition("\\x")[2][:2]
    assert f" UTF-8: got 0x{expected} at byte " in run.errors
    assert "set allow_binary=true" in run.errors.splitlines()[-1]
    assert not list((folder / "models").glob("*.safetensors"))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_text_with_nothing_to_learn_is_refused_in_one_line(folder: Path, kind: str) -> None:
    data, expected = REFUSED[kind]
    (folder / "text").write_bytes(data)
    (folder / "data/test/eval.en").unlink()  # requires that a part of the text be held out
    run = run_to_completion(*training(), "--train-file", "text", cwd=folder)
    require_one_line(run, 2, expected)
    assert not list((folder / "models").glob("*.safetensors"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
@pytest.mark.parametrize("option", ["--train-file", "--eval-file"])
@pytest.mark.parametrize("kind", ["folder", "FIFO", "device", "missing"])
def test_a_path_that_is_not_a_regular_file_is_refused_as_a_text(folder: Path, option: str, kind: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "empty").mkdir()
    target = {"folder": "empty", "FIFO": "fifo", "device": "/dev/zero", "missing": "nowhere"}[kind]
    run = run_to_completion(*training(), option, target, cwd=folder)
    require_one_line(run, 2, target, "name another folder" if kind == "folder" else "name a text file")


@pytest.mark.parametrize("byte", [b"\0", b"a", b"\xff"], ids=["NUL", "a", "not UTF-8"])
def test_one_very_long_line_takes_bounded_memory(
    folder: Path, byte: bytes, record_property: Callable[[str, object], None]
) -> None:
    size = count(16, 10_000 if byte == b"\0" else 300) << 20
    with open(folder / "long", "wb") as file:
        if byte == b"\0":
            file.truncate(size)  # a sparse file
        else:
            for _ in range(size >> 20):
                file.write(byte * (1 << 20))
    texts = ["--eval-file", "data/test/eval.en", "--max-steps", "3", "--set", "allow_binary=true"]
    usual = run_process(*training(), *texts, "--models-dir", "usual", cwd=folder)
    run = run_process(*training(), "--train-file", "long", *texts, cwd=folder)
    assert run.code == 0, run.errors
    growth = run.peak_kb - usual.peak_kb
    record_property("count", f"{size >> 20} MiB")
    record_property("seen", f"{growth / 1000:.0f} MB more than for a small text")
    assert growth < PEAK_GROWTH_KB


def changed(path: Path, how: str) -> None:
    """Change a file that is in use."""
    if how == "deleted":
        path.unlink()
    elif how == "growing":
        with open(path, "ab") as file:
            file.write(b"One more line.\n\n" * 1000)
    elif how == "truncated":
        os.truncate(path, 100)
    elif how == "overwritten":
        path.write_bytes(b"Something else.\n\n" * 500)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("deleted", "text"), ("growing", "another text"), ("truncated", "another text"), ("overwritten", "another text")],
)
def test_a_text_changed_during_a_run_is_trained_on_as_read_and_refused_by_resume(
    folder: Path, how: str, expected: str
) -> None:
    text = folder / "text"
    text.write_bytes(PLAIN)
    options = [*training(), "--train-file", "text", "--eval-file", "data/test/eval.en"]
    with Headless(*options, cwd=folder) as run:
        run.wait_for_step(1)
        changed(text, how)
        run.wait_for_step(run.steps + 100)
        assert run.stop() == 130
    require_valid_checkpoints(folder / "models", run.events)
    require_one_line(run_to_completion(*options, "--resume", cwd=folder), 2, expected)
    text.write_bytes(PLAIN)
    again = run_to_completion(*options, "--resume", "--max-steps", str(run.steps + 3), cwd=folder)
    assert again.code == 0, again.errors


def test_a_token_cache_truncated_in_use_ends_the_run_saved_and_is_rebuilt(folder: Path) -> None:
    with Headless(*training(), cwd=folder) as run:
        run.wait_for_step(5)
        for cache in folder.glob("data/raw/*.tokens-*"):
            os.truncate(cache, 600)
        code = run.end()
    assert code == 2
    require_one_line(run, 2, "was cut short while in use", "start the program again")
    require_valid_checkpoints(folder / "models", run.events)
    saved = verify_checkpoint(folder / LATEST).step  # the last steps were not printed
    again = run_to_completion(*training(), "--resume", "--max-steps", str(saved + 3), cwd=folder)
    assert again.code == 0, again.errors
    assert again.events[0]["step"] == saved >= run.steps


def test_deleting_a_token_cache_in_use_changes_nothing(folder: Path) -> None:
    with Headless(*training(), cwd=folder) as run:
        run.wait_for_step(1)
        for cache in folder.glob("data/*/*.tokens-*"):
            cache.unlink()
        run.wait_for_step(run.steps + 100)
        assert run.stop() == 130
    require_valid_checkpoints(folder / "models", run.events)
