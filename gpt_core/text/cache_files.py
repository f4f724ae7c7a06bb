"""Cache files, which can be rebuilt at any time: the folders for them, and writing them atomically."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gpt_core import files
from gpt_core.home import cache_folder

TEMPORARY = "unfinished.tokens-"  # prefix of the names of files that are being written
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + "[0-9]+-[0-9a-f]{12}")
_CACHE_NAME = re.compile(r".+\.(?:tokens|pieces|baselines)-[0-9a-f]{12}")
STALE_AFTER_S = 3600  # without locks, a temporary file not modified for this long belongs to a killed process


def is_cache_name(name: str) -> bool:
    """Return True for the name of a cache file, finished or not."""
    return bool(_CACHE_NAME.fullmatch(name)) or name.startswith(TEMPORARY)


def cache_folders(text: Path, cache_dir: Path | None = None) -> list[Path]:
    """Return the folders in which caches of `text` are searched for and created, in order of preference.

    These are the folder of the text, unless it is inside an installed package, and the user's cache folder, unless
    there is neither a home folder nor XDG_CACHE_HOME.

    Args:
        text: Text file.
        cache_dir: The only folder to use, if given.
    """
    if cache_dir is not None:
        return [cache_dir]
    user_caches = cache_folder()
    own = [user_caches] if user_caches is not None else []
    beside = text.resolve().parent
    if beside.is_relative_to(Path(__file__).resolve().parents[1]):
        return own
    return [beside, *own]


class NewCacheFile:
    """A cache file that is being written under a temporary name."""

    def __init__(self, file: BinaryIO, folder: Path, temporary: Path) -> None:
        self.file = file
        self._folder = folder
        self._temporary = temporary

    def publish(self, name: str) -> None:
        """Give the file its final name in the folder, replacing a file or link of that name. Raises OSError."""
        if sys.platform == "win32":
            self.file.close()  # an open file cannot be renamed there
        else:
            self.file.flush()  # it stays open, and so locked under its temporary name
        os.replace(self._temporary, self._folder / name)


@contextlib.contextmanager
def new_cache_file(folder: Path) -> Iterator[NewCacheFile]:
    """Create a file in `folder` that appears under its final name only when it is published.

    Readers never see an incomplete file, and symbolic links under either name are not followed. A file that is not
    published is removed at the end of the `with` block. Before, temporary files of processes that were killed are
    removed. The file is locked while it is written, so that others can tell it from those.

    Raises:
        OSError: The file cannot be created, written or renamed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_stale(folder)
    temporary = folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with open(temporary, "xb") as file:
            while files.try_lock(file) is False:  # another process looks at the file right now
                time.sleep(0.001)
            yield NewCacheFile(file, folder, temporary)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while writing."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if _TEMPORARY_NAME.fullmatch(path.name) and _is_stale(path):
                path.unlink()


def _is_stale(path: Path) -> bool:
    """Return True for a file that no process is writing: its lock can be taken, or without locks, it is old.

    An empty file may have been created a moment ago, and not be locked yet. Raises OSError.
    """
    with files.open_regular(path) as file:
        found = os.fstat(file.fileno())
        is_free = files.try_lock(file)
    is_old = time.time() - found.st_mtime > STALE_AFTER_S
    if is_free is None or sys.platform == "win32":  # there a file is not locked while it is renamed
        return is_old and is_free is not False
    return is_free and (found.st_size > 0 or is_old)
