"""Files that others may have touched: read only if they are regular, replaced only as a whole.

`open_regular` never waits on a FIFO and never touches a device. `replace_file` leaves either the old file or the new
one, whatever happens to the process, the disk or the rest of the folder, and returns once the new one is on disk.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

_WRITE_BYTES = 8 << 20
BINARY = getattr(os, "O_BINARY", 0)
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?:new|old)")
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))


class NotRegularError(OSError):
    """What was to be read is a folder, a FIFO, a socket or a device."""


def reason(error: OSError | ValueError) -> str:
    """The words of a failed system call, without the path and the number."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def open_regular(path: Path | str) -> io.FileIO:
    """Opens a regular file, or a link to one, for reading, unbuffered.

    Raises FileNotFoundError, NotRegularError ("is a FIFO, wanted a file") or another OSError. It looks before it opens,
    because to open a device can be to use it, and looks again after, because the file may have been exchanged.
    """
    try:
        _require_regular(os.stat(path).st_mode)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from None
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | BINARY)
    try:
        _require_regular(os.fstat(descriptor).st_mode)
        return io.FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def replace_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Makes `path` hold the chunks, all of them or, when an OSError is raised, none.

    The new file is written beside the old one under an unguessable name, synced and renamed; then the folder is synced.
    Until that last step has succeeded the old file is kept under a second name, to be put back. Neither the temporary
    name nor `path` is followed if it is a symbolic link: the link itself is replaced. The umask decides the mode.
    """
    mark = secrets.token_hex(8)
    new = path.with_name(f".{path.name}.{mark}.new")
    old = path.with_name(f".{path.name}.{mark}.old")
    try:
        _write_new(new, chunks)
        kept = _keep(path, old)
        os.replace(new, path)
        try:
            sync_folder(path.parent)
        except OSError:
            if kept:
                os.replace(old, path)
            raise
    finally:
        for leftover in (new, old):
            with contextlib.suppress(OSError):
                os.unlink(leftover)


def remove_leftovers(folder: Path, is_ours: Callable[[str], bool]) -> list[str]:
    """Removes what `replace_file` left behind when it was killed while replacing a file whose name `is_ours`.

    To be called only while nobody else writes to the folder. Returns the names that were removed.
    """
    removed = []
    for entry in os.scandir(folder):
        match = _LEFTOVER.fullmatch(entry.name)
        if match and is_ours(match["name"]) and not entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
                removed.append(entry.name)
    return removed


def probe(path: Path) -> None:
    """Writes and removes a file as `replace_file` would for `path`, to find out now if that works. Raises OSError."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        _write_new(new, [b"probe"])
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on disk. File systems that cannot do so, and Windows, are taken at their word."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes every byte, in as many calls as that takes."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(descriptor, left[:_WRITE_BYTES]) :]


def _write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | BINARY, 0o666)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
        _sync_file(descriptor)
    finally:
        os.close(descriptor)  # quotas and network file systems report here what they could not store


def _sync_file(descriptor: int) -> None:
    """fsync; on macOS also through the drive's own cache, which fsync there leaves out."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _keep(path: Path, second_name: Path) -> bool:
    """Gives the file a second name; False where there is no file, or the file system has no hard links."""
    try:
        os.link(path, second_name, follow_symlinks=os.link not in os.supports_follow_symlinks)
    except OSError:
        return False
    return True


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((words for test, words in _KINDS if test(mode)), "a device")
        raise NotRegularError(errno.EINVAL, f"is {kind}, wanted a file")
