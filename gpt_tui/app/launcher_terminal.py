"""Terminal of the launcher (`mpiexec`), which gives rank 0 pipes and a session of its own.

The terminal is reached through the descriptors of the launcher, by `/proc`. Output goes to it directly. Input comes
from the pipe in which the launcher passes on what it reads there: two readers of a terminal would share the keys.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpt_core.distributed.launch import RANK_VARIABLES
from gpt_core.errors import InputError

LEAVE_FULL_SCREEN = (
    b"\x1b[?2004l\x1b[?7h\x1b[?2048l\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l\x1b[?1004l"
    b"\x1b[<u\x1b[?1049l\x1b[?25h"
)
"""Switches off what Textual switches on: pasting in brackets, reports of mouse, size and focus, keys, its screen."""
STREAMS = ("standard input", "standard output", "standard error")


class Ancestor(NamedTuple):
    """Process above this one. `terminal` is the device number of its terminal, 0 without one."""

    pid: int
    name: str
    parent: int
    group: int
    terminal: int
    foreground_group: int


def attach_terminal() -> None:
    """Use the terminal of the launcher as standard output and standard error.

    Raises:
        InputError: The launcher has no terminal, or the app cannot use it.
    """
    terminal = open_terminal(os.getpid())
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    for descriptor in (1, 2):
        os.dup2(terminal, descriptor)
    os.close(terminal)


def open_terminal(pid: int) -> int:
    """Return a descriptor of the terminal of the launcher of a process. Raises InputError."""
    launcher = launcher_of(pid)
    if launcher is None:
        raise _error("rank 0 cannot reach it from here")
    if launcher.group != launcher.foreground_group:
        raise _error(f"{launcher.name} runs in the background")
    for descriptor, name in enumerate(STREAMS):
        if not _is_terminal(f"/proc/{launcher.pid}/fd/{descriptor}"):
            raise _error(f"{name} of {launcher.name} is not a terminal")
    try:
        return os.open(f"/proc/{launcher.pid}/fd/2", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _error(f"it cannot be opened: {error.strerror}") from None


def terminal_restorer() -> Callable[[], None]:
    """Return a function that leaves the full screen and restores the present modes of the terminal of the launcher.

    It does nothing where the modes are the same: the app has restored them, or has not been shown.
    """
    try:
        import termios

        terminal = open_terminal(os.getpid())
        modes = termios.tcgetattr(terminal)
    except (ImportError, InputError, OSError, termios.error):
        return lambda: None

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):
            if termios.tcgetattr(terminal) != modes:
                signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # of a process in the background
                os.write(terminal, LEAVE_FULL_SCREEN)
                termios.tcsetattr(terminal, termios.TCSAFLUSH, modes)

    return restore


def launcher_of(pid: int) -> Ancestor | None:
    """Return the nearest process above a rank that has a terminal and is no part of the rank, None without one."""
    found = ancestor(pid)
    while found is not None and (not found.terminal or is_rank(found.pid)):
        found = ancestor(found.parent)
    return found


def is_rank(pid: int) -> bool:
    """Return True for a process that a launcher has started as a rank, False if that is unknown."""
    try:
        names = {name.partition(b"=")[0].decode(errors="replace") for name in _environment(pid).split(b"\0")}
    except OSError:
        return False
    return bool(names & RANK_VARIABLES.keys())


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def ancestor(pid: int) -> Ancestor | None:
    """Return a process as `/proc` describes it, None if it is unknown."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, _, rest = line.partition("(")[2].rpartition(")")
    _state, parent, group, _session, terminal, foreground = rest.split()[:6]
    return Ancestor(pid, name, int(parent), int(group), int(terminal), int(foreground))


def _is_terminal(path: str) -> bool:
    with contextlib.suppress(OSError):
        if stat.S_ISCHR(os.stat(path).st_mode):
            descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                return os.isatty(descriptor)
            finally:
                os.close(descriptor)
    return False


def _error(why: str) -> InputError:
    return InputError(
        f"the app needs the terminal of mpiexec, but {why}; add --train-only, and follow the run with `gpt-tui watch`"
    )
