"""Output of a rank whose launcher gives it a terminal of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_tui.cli import ranks
from gpt_tui.cli.ranks import launcher_has_terminal, print_plain_lines

pty = pytest.importorskip("pty")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo terminal."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_launcher_prints_to_a_terminal_only_where_its_own_output_is_one(
    terminal: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for output in (terminal[1], subprocess.PIPE, subprocess.DEVNULL, (tmp_path / "log").open("w")):
        with subprocess.Popen(["sleep", "60"], stdout=output) as launcher:
            monkeypatch.setattr(os, "getppid", lambda pid=launcher.pid: pid)
            found.append(launcher_has_terminal())
            launcher.kill()
    assert found == [True, False, False, False]


@pytest.mark.parametrize(("has_own_terminal", "expected"), [(True, 0), (False, 1)])
def test_lines_are_plain_only_if_the_terminal_of_a_rank_is_not_one_for_input_too(
    has_own_terminal: bool, expected: int, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open MPI gives ranks a terminal for output, `srun --pty` one for both, and neither launcher prints to one."""
    calls: list[None] = []
    monkeypatch.setattr(ranks, "launcher_has_terminal", lambda: False)
    monkeypatch.setattr(ranks, "print_plain_lines", lambda: calls.append(None))
    monkeypatch.setattr(ranks, "fork_rank", lambda _ended: sys.exit())
    with open(terminal[1], "r+b", buffering=0, closefd=False) as own, open(os.devnull) as pipe:
        monkeypatch.setattr(sys, "stdout", own)
        monkeypatch.setattr(sys, "stdin", own if has_own_terminal else pipe)
        with pytest.raises(SystemExit):
            ranks.run_rank(lambda _ranks: 0, lambda error: (str(error), 1))
    assert len(calls) == expected


def test_plain_lines_have_no_carriage_returns_and_no_progress_bars(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with open(terminal[1], "w", closefd=False) as output:
        monkeypatch.setattr(sys, "stdout", output)
        print_plain_lines()
        print("step 1\nstep 2", flush=True)
    expected = b"step 1\nstep 2\n"
    found = b""
    while len(found) < len(expected):
        found += os.read(terminal[0], 100)
    assert found == expected
    assert os.environ["TERM"] == "dumb"
