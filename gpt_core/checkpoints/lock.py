"""Lock of a models folder: one trainer per folder, and which process it is.

The lock is an advisory lock on the file `.lock`; the operating system releases it when its process ends, however it
ends. The file also holds the process id, the host name and the command of the holder, one per line, for error messages.

`lock_holder` finds the holder without taking the lock: taking it, even for a moment, would make a trainer that starts
in this moment fail. Linux lists all locks and their processes; elsewhere the process id in the file is used.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import IO

from gpt_core import files
from gpt_core.errors import FolderInUseError

LOCK = ".lock"
LOCKS = Path("/proc/locks")
MAX_COMMAND_CHARS = 100
_MAX_PID_DIGITS = 20
_MAX_LOCK_BYTES = 1000


class FolderLock:
    """Lock of one folder, held from `acquire` to `release`.

    A folder that is moved takes its lock file along: `is_in_place` tells whether the lock still protects the path.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._folder = folder
        self._file: IO[bytes] | None = None

    @property
    def is_held(self) -> bool:
        """Return True if this object holds the lock."""
        return self._file is not None

    @property
    def is_in_place(self) -> bool:
        """Return True if the lock file in the folder is the one that this object holds."""
        try:
            return self._file is not None and os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def acquire(self) -> None:
        """Take the lock, if it is not held already.

        Raises:
            FolderInUseError: Another trainer holds it.
            OSError: The lock file cannot be opened or written.
        """
        if self._file is not None:
            return
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.fdopen(os.open(self._path, flags, 0o666), "r+b", buffering=0)
        if not _try_lock(file):
            holder = _describe_holder(file)
            file.close()
            raise FolderInUseError(
                f"{self._folder} is in use: {holder}; stop it, or choose another folder with --models-dir"
            )
        file.truncate(0)
        file.write(_describe_this_process().encode("utf-8", "backslashreplace"))
        self._file = file

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def lock_holder(folder: Path | str, locks: Path = LOCKS) -> int | None:
    """Return the process id of the trainer that holds the lock of a folder, None if there is none or it is unknown."""
    try:
        with files.open_regular(Path(folder, LOCK)) as file:
            first_line = (file.read(_MAX_PID_DIGITS) or b"0").partition(b"\n")[0]
            pid, inode = int(first_line), os.fstat(file.fileno()).st_ino
    except (OSError, ValueError):
        return None
    if pid <= 0:
        return None
    held = _held_locks(locks)
    if held is None:
        return pid if _is_alive(pid) else None
    return pid if (pid, inode) in held else None


def _held_locks(locks: Path) -> set[tuple[int, int]] | None:
    """Return (process id, inode) of each file lock that the system lists, None if it lists none.

    A line is `1: FLOCK  ADVISORY  WRITE 4711 fe:00:2146385 0 EOF`; a process that waits for a lock has an arrow in
    front. The device is ignored, because some file systems report another one in `stat`.
    """
    try:
        lines = locks.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    held = set()
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK":
            pid, inode = words[4], words[5].rpartition(":")[2]
            if pid.isdigit() and inode.isdigit():
                held.add((int(pid), int(inode)))
    return held


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # os.kill would end the process there
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        return bool(handle and ctypes.windll.kernel32.CloseHandle(handle))
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _describe_this_process() -> str:
    """Return process id, host name and command, one per line."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:MAX_COMMAND_CHARS]
    return "\n".join([str(os.getpid()), platform.node(), *command.splitlines()[:1]]) + "\n"


def _describe_holder(file: IO[bytes]) -> str:
    """Return who holds the lock, for an error message, from the contents of the lock file."""
    lines = (file.read(_MAX_LOCK_BYTES) or b"").decode("utf-8", "replace").splitlines()
    pid, host, command = (*lines, "", "", "")[:3]
    where = f" on {host}" if host not in ("", platform.node()) else ""
    return f"process {pid[:_MAX_PID_DIGITS] or '?'}{where} is training there" + (f" ({command})" if command else "")


def _try_lock(file: IO[bytes]) -> bool:
    """Lock an open file; return False if another process holds the lock. Closing the file releases it.

    On a file system without locks this succeeds: then nothing protects the folder from a second trainer.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 30)  # far from the process id, so that others can read it
        with contextlib.suppress(OSError):
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
            return True
        file.seek(0)
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
