"""Run the program in a separate process, with settings small enough for a run of one second."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gpt_core

ROOT = Path(gpt_core.__file__).resolve().parents[1]
PROGRAM = [sys.executable, "-m", "gpt_tui"]
TIMEOUT_S = 120

TINY = (
    "d_model=16", "hidden_size=24", "vocab_size=300", "num_heads=2", "seq_len=16", "layers=1", "batch_size=2",
    "micro_batch_size=2", "eval_every_steps=0", "max_tokens=20",
)  # fmt: skip
TEXT = "The cat sat on the mat, and the bat sat on the hat.\n\nIt was a dark night; the rat was at it again.\n\n" * 40


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a process that finds the package under test, whatever its working directory."""
    removed = ("OVERFIT_TINY", "COLUMNS", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
    inherited = {name: value for name, value in os.environ.items() if name not in removed}
    return inherited | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **changes}


def tiny(*more: str) -> list[str]:
    """Return the options of a tiny model."""
    return [word for assignment in (*TINY, *more) for word in ("--set", assignment)]


def write_texts(folder: Path) -> None:
    """Write a training text and an evaluation text to their default paths."""
    for name in ("raw/train.en", "test/eval.en"):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT if name.startswith("raw") else TEXT[: len(TEXT) // 4])


def run_program(
    *arguments: str | bytes, cwd: Path, input: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the program to completion and capture its output; `changes` apply to the environment."""
    return subprocess.run(
        [*PROGRAM, *arguments], cwd=cwd, env=environment(**changes), capture_output=True, timeout=TIMEOUT_S,
        check=False, encoding="utf-8", errors="surrogateescape", input=input,
    )  # fmt: skip


def start_program(*arguments: str, cwd: Path, **changes: str) -> subprocess.Popen[str]:
    """Start the program with pipes for its output, to be read line by line."""
    return subprocess.Popen(
        [*PROGRAM, *arguments], cwd=cwd, env=environment(**changes), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1,
    )  # fmt: skip


class Terminal:
    """The program on a pseudo terminal of 80 columns, and its output so far. Not for Windows."""

    def __init__(self, *arguments: str, cwd: Path, before: tuple[str, ...] = (), **changes: str) -> None:
        pty = pytest.importorskip("pty")
        self._leader, follower = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [*before, *PROGRAM, *arguments], cwd=cwd, env=environment(**({"COLUMNS": "80", "LINES": "24"} | changes)),
            stdin=follower, stdout=follower, stderr=follower, start_new_session=True, preexec_fn=take_terminal,
        )  # fmt: skip
        os.close(follower)

    def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal; the program receives SIGWINCH."""
        import termios

        termios.tcsetwinsize(self._leader, (rows, columns))

    def read_on(self, until: Callable[[], object]) -> None:
        """Read output until the condition holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while not until():
            assert time.monotonic() < deadline, self.shown[-3000:]
            self._read(0.02)

    def read_for(self, seconds: float) -> None:
        """Read output for `seconds`."""
        end = time.monotonic() + seconds
        self.read_on(lambda: time.monotonic() > end)

    def read_until(self, expected: str) -> None:
        """Read output until it contains `expected`."""
        deadline = time.monotonic() + TIMEOUT_S
        while expected not in self.shown and time.monotonic() < deadline and self._read(0.5):
            pass
        assert expected in self.shown, self.shown

    def read_some(self, characters: int) -> None:
        """Read until the output has this many characters."""
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.shown) < characters and time.monotonic() < deadline and self._read(0.5):
            pass
        assert len(self.shown) >= characters, self.shown

    def type(self, text: str) -> None:
        """Type `text`; earlier output is discarded, so that `read_until` sees only later output."""
        self.shown = ""
        os.write(self._leader, text.encode())

    def end(self) -> int:
        """Read output until the program ends, and return its exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and self._read(0.1):
            pass
        code = self.process.wait(TIMEOUT_S)
        os.close(self._leader)
        return code

    def _read(self, wait_s: float) -> bool:
        """Read available output; return False once the program has closed the terminal."""
        if select.select([self._leader], [], [], wait_s)[0]:
            try:
                data = os.read(self._leader, 65536)
            except OSError:
                return False
            self.shown += data.decode("utf-8", "replace")
            return bool(data)
        return True


def take_terminal() -> None:
    """Make standard input the controlling terminal of the new process, so that Ctrl+C reaches it."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
