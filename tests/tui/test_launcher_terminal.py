"""The app in the terminal of a launcher that gives it pipes and a session of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from textual.geometry import Size

from gpt_core.errors import InputError
from gpt_tui.app import launcher_terminal
from gpt_tui.app.launcher_driver import LauncherDriver
from gpt_tui.app.launcher_terminal import ancestor, launcher_of, open_terminal, terminal_restorer
from tests.program import TIMEOUT_S
from tests.tui.test_terminal import Terminal

pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")
if not Path("/proc/self/stat").exists():
    pytest.skip("/proc is not here", allow_module_level=True)

LAUNCHED_APP = "tests.tui.launched_app"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """The app in training, in the terminal of a launcher."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    app = Terminal(tmp_path, "0.01", program=LAUNCHED_APP)
    app.until_training()
    yield app
    if app.process.poll() is None:
        app.process.kill()
    os.close(app.master)
    os.close(app.slave)


@pytest.mark.slow
def test_keys_reach_the_app_and_the_terminal_is_restored(launched: Terminal) -> None:
    os.write(launched.master, b"q")
    launched.until(b"Quit gpt-tui?")
    os.write(launched.master, b"s")
    assert launched.wait() == 0
    assert len(launched.saved()) == 1
    assert launched.is_restored()


@pytest.mark.slow
def test_ctrl_c_is_a_key_that_saves_and_quits(launched: Terminal) -> None:
    os.write(launched.master, b"\x03")
    assert launched.wait() == 130
    assert len(launched.saved()) == 1
    assert launched.is_restored()


@pytest.mark.slow
def test_the_app_follows_the_size_of_the_terminal(launched: Terminal) -> None:
    assert b"\x1b[40;1H" not in launched.read()
    termios.tcsetwinsize(launched.slave, (40, 120))
    launched.until(b"\x1b[40;1H")
    os.write(launched.master, b"\x03")
    assert launched.wait() == 130


def test_a_size_is_reported_until_the_screen_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", reported.append)
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (40, 120))
    driver = LauncherDriver.__new__(LauncherDriver)
    driver.terminal = slave
    for size, expected in (((80, 24), 1), ((80, 24), 2), ((120, 40), 2)):
        driver._app = SimpleNamespace(screen=SimpleNamespace(size=Size(*size)))  # type: ignore[assignment]
        driver.follow_size()
        assert reported == [signal.SIGWINCH] * expected
    os.close(master)
    os.close(slave)


@pytest.mark.slow
def test_a_hangup_ends_the_run_with_a_save(launched: Terminal) -> None:
    os.close(launched.master)
    launched.master = os.open(os.devnull, os.O_RDWR)
    launched.wait()  # the launcher ends first
    end = time.monotonic() + TIMEOUT_S
    while not launched.saved():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_is_described_with_a_name_that_has_spaces_and_brackets(tmp_path: Path) -> None:
    own = ancestor(os.getpid())
    assert own is not None
    assert (own.parent, own.group) == (os.getppid(), os.getpgrp())
    assert ancestor(1 << 30) is None
    odd = tmp_path / "a ) b"
    odd.symlink_to(sys.executable)
    with subprocess.Popen([odd, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = ancestor(process.pid)
        assert found is not None
        assert found.parent == os.getpid()


def with_launcher(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Let the launcher of this process be one with a terminal in the foreground, but for the changes."""
    values = {"pid": os.getpid(), "name": "mpiexec", "parent": 1, "group": 7, "terminal": 1, "foreground_group": 7}
    found = launcher_terminal.Ancestor(**(values | changes))  # type: ignore[arg-type]
    monkeypatch.setattr(launcher_terminal, "ancestor", lambda _pid: found)


def test_a_launcher_without_a_terminal_or_in_the_background_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_terminal, "ancestor", lambda pid: None)
    with pytest.raises(InputError, match=r"rank 0 cannot reach it from here; add --train-only, .*`gpt-tui watch`"):
        open_terminal(os.getpid())
    with_launcher(monkeypatch, foreground_group=8)
    with pytest.raises(InputError, match="mpiexec runs in the background"):
        open_terminal(os.getpid())


def test_a_redirected_stream_of_the_launcher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_launcher(monkeypatch)
    monkeypatch.setattr(launcher_terminal, "_is_terminal", lambda path: not path.endswith("/1"))
    with pytest.raises(InputError, match="standard output of mpiexec is not a terminal"):
        open_terminal(os.getpid())


def test_the_launcher_is_the_nearest_process_above_with_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = {5: (4, 0), 4: (3, 0), 3: (2, 34816), 2: (1, 34816)}
    monkeypatch.setattr(
        launcher_terminal,
        "ancestor",
        lambda pid: (
            launcher_terminal.Ancestor(pid, "", parents[pid][0], pid, parents[pid][1], pid) if pid in parents else None
        ),
    )
    environments = {3: b"PATH=/bin\0HOME=/root\0"}
    monkeypatch.setattr(launcher_terminal, "_environment", lambda pid: environments.get(pid, b""))
    found = launcher_of(5)
    assert found is not None
    assert found.pid == 3
    environments[3] = b"PATH=/bin\0OMPI_COMM_WORLD_RANK=0\0"  # a rank in the session of its launcher
    found = launcher_of(5)
    assert found is not None
    assert found.pid == 2
    del parents[3]
    assert launcher_of(5) is None


def test_modes_of_the_terminal_are_restored_only_if_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    monkeypatch.setattr(launcher_terminal, "open_terminal", lambda _pid: slave)
    before = termios.tcgetattr(slave)
    restore = terminal_restorer()
    os.set_blocking(master, False)
    restore()
    with pytest.raises(BlockingIOError):
        os.read(master, 100)
    raw = termios.tcgetattr(slave)
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(slave, termios.TCSANOW, raw)
    restore()
    assert termios.tcgetattr(slave)[:4] == before[:4]
    assert b"\x1b[?1049l" in os.read(master, 1000)
    os.close(master)
    os.close(slave)


def test_without_a_terminal_nothing_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_terminal, "ancestor", lambda _pid: None)
    monkeypatch.setattr(os, "write", lambda *_: pytest.fail("there is no terminal"))
    terminal_restorer()()
