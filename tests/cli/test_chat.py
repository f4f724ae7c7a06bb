"""`gpt-tui chat`: replies, the end of the chat, and what a terminal shows."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tui.cli import generate
from gpt_tui.headless import terminal_chat
from tests.cli.conftest import Result
from tests.program import Terminal


def test_chat_generates_a_reply_per_line_until_exit(program: Callable[..., Result], trained: Path) -> None:
    run = program("chat", "--seed", "1", "--max-tokens", "6", input="The cat\n\nThe bat\nexit\nThe rat\n")
    assert (run.returncode, run.stderr) == (0, "")
    model = ["--seed", "1", "--max-tokens", "6"]
    first = program("generate", "The cat", *model).stdout.removeprefix("The cat")
    assert run.stdout.startswith(first)
    assert len(run.stdout) > len(first)


@pytest.mark.parametrize("lines", ["", "exit\n", " exit \n", "\n\n"])
def test_chat_ends_at_exit_and_at_end_of_input(program: Callable[..., Result], lines: str, trained: Path) -> None:
    run = program("chat", input=lines)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_byte_order_mark_is_no_part_of_a_prompt(program: Callable[..., Result], trained: Path) -> None:
    plain, marked = (
        program("chat", "--max-tokens", "4", "--temperature", "0", input=f"{mark}The cat\n\n{mark}exit\nThe\n")
        for mark in ("", "\ufeff")
    )
    assert plain.returncode == 0
    assert plain.stdout
    assert marked == plain


def test_ctrl_c_stops_the_reply_and_at_the_prompt_the_chat(trained: Path) -> None:
    # the most probable token is never <eos> here, so generation would take minutes
    terminal = Terminal("chat", "--max-tokens", "1000000", "--temperature", "0", cwd=trained)
    terminal.read_until("> ")
    terminal.type("The cat\n")
    terminal.read_some(500)
    terminal.type("\x03")
    terminal.read_until("> ")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown


def test_control_characters_of_a_reply_are_escaped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    generate.write("a\x1b[31mb\x07[bold]\n")
    assert screen.getvalue() == "a\u241b[31mb\u2407[bold]\n"


def test_carriage_returns_at_line_ends_are_not_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    for piece in ("one\r\ntwo", "\r", "\nthree\r", "\n", "fo\rur"):
        generate.write(piece)
    assert screen.getvalue() == "one\ntwo\nthree\nfo\u240dur"


def test_lines_pasted_together_into_the_terminal_chat_are_one_prompt(trained: Path) -> None:
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit has no bracketed paste")
    terminal = Terminal("chat", "--max-tokens", "4", "--temperature", "0", cwd=trained, TERM="xterm")
    terminal.read_until("> ")
    terminal.type("\x1b[200~The cat\nThe bat\nThe rat\x1b[201~")
    terminal.read_until("The rat")
    terminal.type("\r")
    terminal.read_until("> ")
    assert terminal.shown.count("> ") == 1, "one reply, then the next prompt"
    terminal.type("exit\r")
    assert terminal.end() == 0


def test_an_example_that_the_terminal_cannot_show_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_chat, "at_terminals", lambda: True)
    monkeypatch.setattr(terminal_chat, "prompts", lambda: iter([]))
    for encoding, is_shown in (("utf-8", True), ("ascii", False)):
        screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
        monkeypatch.setattr(sys, "stdout", screen)
        terminal_chat.converse(None, None, "Über allen Gipfeln")  # type: ignore[arg-type]
        screen.flush()
        shown = screen.buffer.getvalue().decode()
        assert ("For example: Über allen Gipfeln" in shown, "For example" in shown) == (is_shown, is_shown)
