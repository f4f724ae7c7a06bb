"""The app in a real (pseudo) terminal: signals, exit codes, what is saved, and that the terminal is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import TIMEOUT_S

pytestmark = pytest.mark.slow

pty = pytest.importorskip("pty")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

ENTERED_ALTERNATE_SCREEN = b"\x1b[?1049h"
LEFT_ALTERNATE_SCREEN, MOUSE_OFF, CURSOR_ON = b"\x1b[?1049l", b"\x1b[?1000l", b"\x1b[?25h"
LATER_S = 1.1  # more than what counts as one and the same press


class Terminal:
    """The app in a pseudo terminal."""

    def __init__(self, folder: Path, *arguments: str, program: str = "tests.tui.terminal_app") -> None:
        self.folder = folder
        self.master, slave = pty.openpty()
        self.slave = slave
        termios.tcsetwinsize(slave, (24, 80))
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", program, str(folder), *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            cwd=Path(__file__).parents[2], env=os.environ | {"TERM": "xterm-256color", "PYTHONPATH": "."},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.set_blocking(self.master, False)
        self.output = b""

    def read(self) -> bytes:
        """Return all output so far."""
        try:
            while part := os.read(self.master, 65536):
                self.output += part
        except OSError:  # nothing more at the moment, or nobody there any more
            pass
        return self.output

    def until(self, words: bytes) -> None:
        """Wait for an output of the app."""
        self.until_so(lambda: words in self.read())

    def until_so(self, reached: Callable[[], object]) -> None:
        """Wait until a condition holds, and read output meanwhile."""
        end = time.monotonic() + TIMEOUT_S
        while not reached():
            assert time.monotonic() < end, self.output[-3000:]
            assert self.process.poll() is None, self.output[-3000:]
            self.read_for(0.02)

    def until_saved(self, count: int) -> None:
        """Wait for a number of saves."""
        self.until_so(lambda: len(self.saved()) >= count)

    def until_training(self) -> None:
        """Wait until the app trains."""
        self.until("▶ training".encode())

    def is_stopped(self) -> bool:
        """Return whether the process is stopped and was not continued since."""
        return os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None

    def read_for(self, seconds: float) -> None:
        """Read output for a time: an app with a full terminal blocks."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read()
            time.sleep(0.01)

    def wait(self) -> int:
        """Wait for the end, and read output so that nothing blocks. Return the exit code."""
        end = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, self.output[-3000:]
            self.read()
            time.sleep(0.02)
        self.read()
        return self.process.returncode

    def saved(self, kind: str = "latest") -> list[Path]:
        """Return the files that the fake trainer wrote per save."""
        return sorted(self.folder.glob(f"saved-{kind}-*"))

    def is_restored(self) -> bool:
        """Return whether modes and line discipline of the terminal are restored."""
        after = termios.tcgetattr(self.slave)
        sequences = all(self.output.rfind(off) > 0 for off in (LEFT_ALTERNATE_SCREEN, MOUSE_OFF, CURSOR_ON))
        return sequences and after[:4] == self.before[:4]


@pytest.fixture
def terminal(tmp_path: Path):
    terminals: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        terminals.append(Terminal(tmp_path, *arguments))
        return terminals[-1]

    yield start
    for one in terminals:
        if one.process.poll() is None:
            one.process.kill()
        os.close(one.master)
        os.close(one.slave)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="INT"),
        pytest.param(signal.SIGTERM, 143, id="TERM", marks=pytest.mark.essential),
        pytest.param(signal.SIGHUP, 129, id="HUP"),
    ],
)
def test_a_signal_saves_restores_the_terminal_and_leaves_with_its_code(terminal, number: int, code: int):
    app = terminal("0.01")
    app.until_training()
    app.process.send_signal(number)
    assert app.wait() == code
    assert len(app.saved()) == 1
    assert app.is_restored()
    assert b"Traceback" not in app.output


def test_two_signals_at_once_save_once(terminal):
    app = terminal("0.2")
    app.until_training()
    app.process.send_signal(signal.SIGTERM)
    app.process.send_signal(signal.SIGTERM)
    assert app.wait() == 143
    assert len(app.saved()) == 1
    assert app.is_restored()


@pytest.mark.parametrize("key", [True, False], ids=["ctrl+c", "SIGTERM"])
def test_a_second_quit_request_waits_for_no_step(terminal, key: bool):
    app = terminal("600")  # a step takes ten minutes
    app.until_training()
    app.until_so((app.folder / "step-begun").exists)
    for heard in (b"saving, then", b""):
        if key:
            os.write(app.master, b"\x03")
        else:
            app.process.send_signal(signal.SIGTERM)
        if heard:
            app.until(heard)
            app.read_for(LATER_S)
    assert app.wait() == (130 if key else 143)
    assert app.saved() == []
    assert b"exited at once, without another save" in app.output
    assert app.is_restored()


def test_sigusr1_saves_and_training_continues(terminal):
    app = terminal("0.01")
    app.until_training()
    app.process.send_signal(signal.SIGUSR1)
    app.until_saved(1)
    app.process.send_signal(signal.SIGTERM)
    assert app.wait() == 143
    assert len(app.saved()) == 2


@pytest.mark.parametrize(("keys", "code", "saves"), [(b"\x03", 130, 1), (b"qs", 0, 1), (b"qd", 0, 0)])
def test_keys_quit_with_their_exit_codes(terminal, keys: bytes, code: int, saves: int):
    app = terminal("0.01")
    app.until_training()
    for key in keys:
        os.write(app.master, bytes([key]))
        if key == ord("q"):
            app.until(b"Quit gpt-tui?")
    assert app.wait() == code
    assert len(app.saved()) == saves
    assert app.is_restored()


def test_a_hangup_ends_the_run_with_a_save(terminal):
    app = terminal("0.01")
    app.until_training()
    os.close(app.master)
    app.master = os.open(os.devnull, os.O_RDWR)
    assert app.wait() == 129
    assert len(app.saved()) == 1


def test_a_hangup_without_a_signal_is_detected(terminal):
    app = terminal("0.01", "deaf")
    app.until_training()
    os.close(app.master)
    app.master = os.open(os.devnull, os.O_RDWR)
    assert app.wait() == 129
    assert len(app.saved()) == 1


@pytest.mark.essential
def test_a_failing_widget_leaves_a_saved_run_and_a_usable_terminal(terminal):
    app = terminal("0.01", "fail")
    assert app.wait() == 1
    assert b"a widget fell over" in app.output
    assert "a widget fell over" in (app.folder / "gpt-tui.log").read_text()
    assert len(app.saved()) == 1
    assert app.is_restored()


def test_suspending_and_continuing_changes_nothing(terminal):
    app = terminal("0.01")
    app.until_training()
    app.process.send_signal(signal.SIGTSTP)
    app.until_so(app.is_stopped)
    assert LEFT_ALTERNATE_SCREEN in app.read()
    app.process.send_signal(signal.SIGCONT)
    app.until_so(lambda: app.read().count(ENTERED_ALTERNATE_SCREEN) == 2)
    app.process.send_signal(signal.SIGTERM)
    assert app.wait() == 143
    assert len(app.saved()) == 1
    assert app.is_restored()
