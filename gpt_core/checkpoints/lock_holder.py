"""Which process trains in a models folder, seen without touching its lock.

Trying the lock would take it for a moment, and a trainer that starts in that moment would be refused. So the system is
asked: Linux lists who holds which lock; elsewhere the process number in the lock file has to do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gpt_core import files
from gpt_core.checkpoints.store import LOCK

LOCKS = Path("/proc/locks")
_MOST_DIGITS = 20


def lock_holder(folder: Path | str, locks: Path = LOCKS) -> int | None:
    """The number of the live process that trains in this folder; None if there is none, or none can be seen."""
    try:
        with files.open_regular(Path(folder, LOCK)) as file:
            first_line = (file.read(_MOST_DIGITS) or b"0").partition(b"\n")[0]
            process, inode = int(first_line), os.fstat(file.fileno()).st_ino
    except (OSError, ValueError):
        return None
    if process <= 0:
        return None
    held = _held(locks)
    if held is None:
        return process if _is_alive(process) else None
    return process if (process, inode) in held else None


def _held(locks: Path) -> set[tuple[int, int]] | None:
    """(process, inode) of each lock on a whole file that the system lists; None where it lists none.

    `1: FLOCK  ADVISORY  WRITE 4711 fe:00:2146385 0 EOF`; those who wait have an arrow, and hold nothing. The device is
    left out: some file systems give another one to `stat`.
    """
    try:
        lines = locks.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    held = set()
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK":
            process, inode = words[4], words[5].rpartition(":")[2]
            if process.isdigit() and inode.isdigit():
                held.add((int(process), int(inode)))
    return held


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # os.kill would end it there
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
        return bool(handle and ctypes.windll.kernel32.CloseHandle(handle))
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
