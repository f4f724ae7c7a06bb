"""Safe reading and atomic replacement of files that other programs may change at any time.

`open_regular` never blocks on a FIFO and never opens a device. `replace_file` leaves either the old file or the
complete new one, whatever happens to the process or the disk, and returns once the new one is on disk. `new_path`
creates a file or a folder under its name once it is complete, and never replaces one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from gpt_core.errors import GptError, InputError, SaveError

_WRITE_BYTES = 8 << 20
BINARY = getattr(os, "O_BINARY", 0)
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?:new|old)")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))


class NotRegularError(OSError):
    """The path to read is a folder, a FIFO, a socket or a device."""


def reason(error: OSError | ValueError) -> str:
    """Return the description of a failed system call, without the path and the error number."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def not_written(name: object, error: OSError, refused: type[InputError]) -> GptError:
    """Return the error for a new file or folder that was not written: SaveError for a full or faulty disk.

    Args:
        name: The path, for the message.
        error: What failed.
        refused: Class of the error where another path helps.
    """
    if error.errno in _DISK_ERRORS:
        return SaveError(f"{name} was not written: {reason(error)}; free some disk space, or choose another disk")
    return refused(f"{name} was not written: {reason(error)}; choose another path")


def open_regular(path: Path | str) -> io.FileIO:
    """Open a regular file, or a link to one, for unbuffered reading.

    The type is checked before opening, because opening a device can have effects, and again after it, because the file
    may have been replaced in between.

    Raises:
        FileNotFoundError: There is no such file.
        NotRegularError: It is not a regular file; the message is of the form "is a FIFO, expected a file".
        OSError: It cannot be opened.
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


def exists(path: Path) -> bool:
    """Return True if there is a file at `path`; False also where the folder is not readable."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def folder_problem(path: Path) -> str:
    """Return "is a file, expected a folder" or the like, "" if there is a folder or nothing at `path`."""
    if os.path.isdir(path) or not os.path.lexists(path):
        return ""
    return f"is {'a file' if os.path.exists(path) else 'a broken link'}, expected a folder"


def replace_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Replace the contents of `path` by the concatenated chunks, completely or not at all.

    The new file is written in the same folder under a random name, synced and renamed; then the folder is synced. Until
    that succeeds, a second name refers to the old file, so that it can be restored. Symbolic links under the temporary
    name or `path` are not followed: the link itself is replaced. The umask determines the mode.

    Raises:
        OSError: The file could not be written; the old one is unchanged.
    """
    mark = secrets.token_hex(8)
    new = path.with_name(f".{path.name}.{mark}.new")
    old = path.with_name(f".{path.name}.{mark}.old")
    try:
        write_new(new, chunks)
        has_backup = _link(path, old)
        os.replace(new, path)
        try:
            sync_folder(path.parent)
        except OSError:
            if has_backup:
                os.replace(old, path)
            raise
    finally:
        for leftover in (new, old):
            with contextlib.suppress(OSError):
                os.unlink(leftover)


@contextlib.contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Create a file or a folder under a temporary name beside `path`; rename it at the end of the context.

    The context creates the file with `write_new`, or the folder and its files. The folder of `path` is created, too, if
    it is missing. If the context raises an error, what was created is removed.

    Yields:
        The temporary path.

    Raises:
        FileExistsError: There is something at `path` already.
        OSError: The folder, or a new name in it, cannot be created.
    """
    require_absent(path)
    missing = list(itertools.takewhile(lambda folder: not os.path.lexists(folder), path.parents))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        if missing:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            sync_folder(temporary)
        require_absent(path)
        _rename_new(temporary, path)
        for folder in (path, *missing):
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        for folder in missing:  # those without a file in them
            with contextlib.suppress(OSError):
                folder.rmdir()


def require_absent(path: Path) -> None:
    """Raise FileExistsError if there is a file, a folder, or a link of any kind at `path`."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it exists already", str(path))


def remove_leftovers(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove temporary files of calls of `replace_file` whose process was killed, for targets whose name `is_ours`.

    Call it only while no other process writes to the folder.
    """
    for entry in os.scandir(folder):
        match = _LEFTOVER.fullmatch(entry.name)
        if match and is_ours(match["name"]) and not entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def probe(path: Path) -> None:
    """Write and remove a file as `replace_file` would for `path`, to detect errors early. Raises OSError."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        write_new(new, [b"probe"])
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk. Does nothing on Windows and on file systems that do not support it."""
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
    """Write all of `data`, with as many system calls as necessary."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(descriptor, left[:_WRITE_BYTES]) :]


def write_new(path: Path, chunks: Iterable[bytes | memoryview], head: Callable[[], bytes] | None = None) -> None:
    """Write a file that does not exist yet, and sync it to disk.

    Args:
        path: File to create.
        chunks: Contents.
        head: Called after the last chunk: returns what to write over the beginning of the contents.

    Raises:
        OSError: The file exists, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | BINARY, 0o666)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
        if head is not None:
            os.lseek(descriptor, 0, os.SEEK_SET)
            write_all(descriptor, head())
        _sync_file(descriptor)
    finally:
        os.close(descriptor)  # with quotas and network file systems, write errors may be reported only here


def try_lock(file: IO[bytes]) -> bool | None:
    """Take the lock of an open file, which is released when the file is closed, or its process ends in any way.

    Returns:
        True if it was taken, False if another open file holds it, None where locks are not supported.
    """
    if sys.platform == "win32":
        import msvcrt

        place = file.tell()
        file.seek(1 << 30)  # others cannot read what is locked: a place after the contents that they read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(place)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _rename_new(source: Path, target: Path) -> None:
    """Rename a file or a folder; a file that has appeared at `target` is not replaced where hard links are supported.

    Raises:
        FileExistsError: A file has appeared at `target`.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a folder, or a file system without hard links
        os.rename(source, target)


def _sync_file(descriptor: int) -> None:
    """Sync a file to disk; on macOS also flush the drive's cache, which fsync leaves out there."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _link(path: Path, second_name: Path) -> bool:
    """Create a hard link to the file; return False where there is no file or hard links are not supported."""
    try:
        os.link(path, second_name, follow_symlinks=os.link not in os.supports_follow_symlinks)
    except OSError:
        return False
    return True


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((words for test, words in _KINDS if test(mode)), "a device")
        raise NotRegularError(errno.EINVAL, f"is {kind}, expected a file")
