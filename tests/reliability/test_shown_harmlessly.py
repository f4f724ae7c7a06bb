"""Escape sequences and markup in a text, a path or a reply are printed as text by every command."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.program import Terminal, tiny
from tests.reliability.runs import ENDLESS, run_to_completion, training

pytestmark = pytest.mark.slow

TITLE = "\x1b]0;pwned\x07"
HOSTILE = f"{TITLE}\x1b[2J\x9b31m[red]x[/red]\x1b[?1049h\u202e"
# the sequences that draw a progress bar: colors, cursor up and down, erase, hide and show the cursor
DRAWING = re.compile(r"\x1b\[(?:[\d;]*m|\d*[ABGK]|\?25[hl])")
ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u202a-\u202e]")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a folder with escape sequences in its name and its texts."""
    for name in ("raw/train.en", "test/eval.en"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"{HOSTILE} It was a [bold]dark[/bold] night.\n\n" * 60, encoding="utf-8")
    return tmp_path


def require_harmless(shown: str) -> None:
    """Check that the output holds no escape sequences except those of progress bars."""
    left = ODD.findall(DRAWING.sub("", shown))
    assert left == [], repr(shown)


@pytest.mark.essential
def test_a_text_and_a_path_of_escape_sequences_reach_the_terminal_as_text(hostile: Path) -> None:
    odd = hostile / HOSTILE.replace("/", "")
    (hostile / "data/raw/train.en").rename(odd)
    options = ["--train-file", odd.name, "--models-dir", f"m{TITLE}", "--max-steps", "5"]
    terminal = Terminal("--train-only", *tiny(*ENDLESS), *options, cwd=hostile)
    assert terminal.end() == 0
    assert "pwned" in terminal.shown
    require_harmless(terminal.shown)


def test_a_reply_of_escape_sequences_reaches_the_terminal_as_text(hostile: Path) -> None:
    learned = ["--overfit-tiny", "--set", "overfit_steps=150", "--set", "mlp_lr=0.01", "--set", "attn_lr=0.01"]
    rates = ["--set", "unembed_lr=0.01", "--set", "warmup_steps=0", "--set", "overfit_lines=1"]
    run = run_to_completion(*training(), *learned, *rates, cwd=hostile)
    assert run.code == 0, run.errors
    terminal = Terminal("generate", TITLE, "--temperature", "0", "--max-tokens", "60", cwd=hostile)
    assert terminal.end() == 0
    assert "pwned" in terminal.shown
    require_harmless(terminal.shown)
    chat = Terminal("chat", "--temperature", "0", cwd=hostile)
    chat.read_until("> ")
    chat.type("]0;\n")
    chat.read_until("> ")
    # GNU readline asks the terminal to mark pasted text; nothing else is a sequence
    require_harmless(chat.shown.replace("\x1b[?2004h", "").replace("\x1b[?2004l", ""))
    chat.type("exit\n")
    assert chat.end() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train-only", "--resume", HOSTILE],
        ["--train-only", "--train-file", HOSTILE],
        ["--train-only", "--models-dir", f"/proc/{TITLE}"],
        ["--train-only", "--config", HOSTILE],
        ["--train-only", "--set", f"{HOSTILE}=1"],
        ["--train-only", "--preset", HOSTILE],
        ["generate", "x", "--model", HOSTILE],
        ["inspect", "x", "--model", HOSTILE],
        ["inspect", "x", "--view", "attention", "--layer", HOSTILE],
        ["evaluate", "--model", HOSTILE],
        ["tokenize", HOSTILE],
        ["verify", HOSTILE],
        [HOSTILE],
    ],
    ids=lambda arguments: " ".join(arguments[:-1]) or "command",
)
def test_an_error_about_a_name_with_escape_sequences_is_one_printable_line(hostile: Path, arguments: list[str]) -> None:
    run = run_to_completion(*arguments, cwd=hostile)
    assert run.code in (1, 2)
    output = run.errors + run.out
    assert output.count("\n") == 1, output
    assert "pwned" in output
    require_harmless(output)


def test_a_file_name_with_escape_sequences_in_the_models_folder_is_printed_as_text(hostile: Path) -> None:
    models = hostile / "models"
    models.mkdir()
    (models / f"epoch_{TITLE}.safetensors").write_bytes(b"x")
    os.symlink("/dev/zero", models / "ckpt_latest.safetensors")
    run = run_to_completion("--train-only", "--resume", cwd=hostile)
    assert run.code == 2
    assert "no valid checkpoint (models/ckpt_latest.safetensors" in run.errors
    require_harmless(run.errors)
