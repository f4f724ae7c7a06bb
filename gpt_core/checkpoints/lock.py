"""Lock of a models folder: one trainer per folder, and which process it is.

The lock is an advisory lock on the file `.lock`. `release` removes it; else the operating system does, once the process
has ended, however it ends, and all children that it has forked meanwhile, which share the open file. The file also
holds the process id, the host name, the command and the PID namespace of the holder, one per line.

`lock_holder` finds the holder without taking the lock: taking it, even for a moment, would make a trainer that starts
in this moment fail. On Linux the trainer also holds a lock of the open file (F_OFD_SETLK), which can be tested from any
process, in containers too. Locks of earlier versions are found in the system's list, which shows only those of its own
PID namespace; where there is neither, the process id in the file is used. A process id is valid only in its PID
namespace and on its host.
"""

from __future__ import annotations

import contextlib
import os
import platform
import struct
import sys
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from gpt_core import files
from gpt_core.errors import FolderInUseError

LOCK = ".lock"
LOCKS = Path("/proc/locks")
MAX_COMMAND_CHARS = 100
_MAX_PID_DIGITS = 20
_MAX_LOCK_BYTES = 1000
_OFD_LOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length (0: to the end), process id


class LockHolder(NamedTuple):
    """Trainer that holds the lock of a folder, or may hold it.

    Attributes:
        pid: Its process id, in its own PID namespace.
        host: Name of its host; "" if unknown.
        command: Its command; "" if unknown.
        namespace: Boot id of its kernel and its PID namespace; "" if unknown.
        is_certain: False where the lock cannot be seen from here: the process may have ended.
    """

    pid: int
    host: str = ""
    command: str = ""
    namespace: str = ""
    is_certain: bool = True

    @property
    def is_here(self) -> bool:
        """True if `pid` is a process id of this PID namespace."""
        if self.namespace:
            return self.namespace == _this_namespace()
        return self.host in ("", platform.node())

    @property
    def place(self) -> str:
        """Place of the process, as "on HOST" or "in another container"; "" if it is here."""
        if self.is_here:
            return ""
        return f"on {self.host}" if self.host not in ("", platform.node()) else "in another container"


class FolderLock:
    """Lock of one folder, held from `acquire` to `release`.

    A folder that is moved takes its lock file along: `is_in_place` is True while the lock still protects the path.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._pid = 0  # process that acquired the lock

    @property
    def is_held(self) -> bool:
        """True if this object holds the lock."""
        return self._file is not None

    @property
    def is_in_place(self) -> bool:
        """True if the lock file in the folder is the one that this object holds."""
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
        if files.try_lock(file) is False:  # None: nothing protects the folder from a second trainer
            reason, remedy = _describe_holder(file)
            file.close()
            raise FolderInUseError(f"{self._folder} is in use: {reason}", remedy)
        _set_open_file_lock(file, locked=True)
        self._file, self._pid = file, os.getpid()
        try:
            file.truncate(0)
            file.write(_describe_this_process().encode("utf-8", "backslashreplace"))
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock, if it is held. A forked copy of this object leaves the lock to the process that took it."""
        if self._file is not None:
            if self._pid == os.getpid():
                _unlock(self._file)
            self._file.close()
            self._file = None


def lock_holder(folder: Path | str, locks: Path = LOCKS) -> LockHolder | None:
    """Return the trainer that holds the lock of a folder, or may hold it; None if there is none or it is unknown.

    Args:
        folder: Models folder.
        locks: The system's list of locks.
    """
    try:
        with files.open_regular(Path(folder, LOCK)) as file:
            holder = _read_holder(file)
            inode, is_locked = os.fstat(file.fileno()).st_ino, _is_open_file_locked(file.fileno())
    except OSError:
        return None
    if holder is None:
        return None
    held = _held_locks(locks)
    # this version also locks the open file: without that lock, an entry is of a file of the same inode elsewhere
    is_released = is_locked is False and bool(holder.namespace)
    if is_locked or (not is_released and any(number == inode for _, number in held or ())):
        if not holder.namespace and held and (holder.pid, inode) not in held:
            return holder._replace(namespace="another")  # an earlier version does not record it
        return holder
    if holder.is_here:
        return holder if held is None and is_locked is None and _is_alive(holder.pid) else None
    is_of_this_kernel = holder.namespace.partition(" ")[0] == _this_namespace().partition(" ")[0] != ""
    if holder.host == platform.node() or (is_of_this_kernel and is_locked is not None):
        return None  # its lock would be seen; or the host has been restarted
    return holder._replace(is_certain=False)


def _read_holder(file: IO[bytes]) -> LockHolder | None:
    """Return the process that wrote the lock file; None if the file has other contents."""
    lines = (file.read(_MAX_LOCK_BYTES) or b"").decode("utf-8", "replace").split("\n")
    pid, host, command, namespace = (*lines, "", "", "", "")[:4]
    if not (pid.isascii() and pid.isdecimal() and len(pid) < _MAX_PID_DIGITS and int(pid)):
        return None
    return LockHolder(int(pid), host, command, namespace)


@cache
def _this_namespace() -> str:
    """Return the boot id of the kernel and this process's PID namespace; "" where the system has none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return ""


def _set_open_file_lock(file: IO[bytes], *, locked: bool) -> None:
    """Set or remove the lock that `_is_open_file_locked` finds, where the system and the file system support it."""
    if sys.platform == "linux" and sys.maxsize > 1 << 32:
        import fcntl

        kind = fcntl.F_WRLCK if locked else fcntl.F_UNLCK
        with contextlib.suppress(OSError):
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_OFD_LOCK, kind, 0, 0, 0, 0))


def _is_open_file_locked(descriptor: int) -> bool | None:
    """Return True if another open file has a lock on the same file; None where such locks are not supported."""
    if sys.platform == "linux" and sys.maxsize > 1 << 32:
        import fcntl

        with contextlib.suppress(OSError):
            found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, struct.pack(_OFD_LOCK, fcntl.F_RDLCK, 0, 0, 0, 0))
            return bool(struct.unpack(_OFD_LOCK, found)[0] != fcntl.F_UNLCK)
    return None


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
    """Return process id, host name, command and PID namespace, one per line."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]).replace("\n", " ")[:MAX_COMMAND_CHARS]
    return "\n".join([str(os.getpid()), platform.node(), command, _this_namespace()]) + "\n"


def _describe_holder(file: IO[bytes]) -> tuple[str, str]:
    """Return who holds the lock and what to do, as reason and remedy of an error, from the contents of the lock file.

    A second run of one process is one of the library: nothing else starts it before it has closed the first.
    """
    holder, another_folder = _read_holder(file), ", or choose another folder with --models-dir"
    if holder is None:
        return "another process is training there; stop it", another_folder
    if holder.is_here and holder.pid == os.getpid():
        return "an earlier run of this process holds it; call its close(), or set models_dir to another folder", ""
    command = f" ({holder.command})" if holder.command else ""
    if holder.is_here:
        return f"process {holder.pid} is training there{command}; stop it", another_folder
    return f"a process {holder.place} is training there{command}; stop that run", another_folder


def _unlock(file: IO[bytes]) -> None:
    """Remove the locks of an open file. Closing it is not enough while a forked child has it open too."""
    _set_open_file_lock(file, locked=False)
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
