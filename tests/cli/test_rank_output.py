"""Output of a rank whose launcher gives it a terminal of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
