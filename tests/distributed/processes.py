"""Processes of a test, found by a variable of their environment, and their end. For systems with /proc."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

STARTED_BY = "GPT_TUI_STARTED_BY_TEST"
"""Variable that every process inherits from the test that has started it, whatever becomes of its parents"""
DEADLINE_S = 30.0


def all_processes() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; none of one that has ended or is not ours."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return dict(word.decode(errors="replace").partition("=")[::2] for word in data.split(b"\0"))


def started_by(test: str) -> list[int]:
    """Return the processes in which `STARTED_BY` has this value, but for this one."""
    return [pid for pid in all_processes() if pid != os.getpid() and environment_of(pid).get(STARTED_BY) == test]


def end_all(test: str) -> None:
    """Kill the processes that a test has started, and those that they start meanwhile."""
    expires_s = time.monotonic() + DEADLINE_S
    while left := [pid for pid in started_by(test) if is_running(pid)]:
        assert time.monotonic() < expires_s, f"processes {left} are left"
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Return True for a process that has not ended, False for one whose parent has yet to wait for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_ends(pids: list[int]) -> None:
    """Wait until these processes have ended."""
    expires_s = time.monotonic() + DEADLINE_S
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < expires_s, f"processes {left} are left"
        time.sleep(0.05)


def parent_of(pid: int) -> int:
    """Return the id of the parent of a process, 0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
