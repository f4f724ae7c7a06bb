"""Files that can be made again at any time: where they lie, and how one appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import gpt_core
from gpt_core.home import cache_home

TEMPORARY = "unfinished.tokens-"  # begins the names of files that are being written
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + "[0-9]+-[0-9a-f]{12}")
STALE_AFTER_S = 3600  # a temporary file untouched for so long was left by a process that died


def cache_folders(text: Path, cache_dir: Path | None = None) -> list[Path]:
    """Where caches of `text` are looked for and made, the first that works: beside it, else in the user's cache folder.

    Beside the text that comes inside an installed package nothing is written. A user without a home folder may have no
    cache folder: the list is then shorter by one. `cache_dir` names the only place.
    """
    if cache_dir is not None:
        return [cache_dir]
    user_caches = cache_home()
    own = [user_caches / "gpt-tui"] if user_caches is not None else []
    beside = text.resolve().parent
    if beside.is_relative_to(Path(gpt_core.__file__).resolve().parent):
        return own
    return [beside, *own]


def write_whole(folder: Path, write: Callable[[BinaryIO], str]) -> Path:
    """Make a file in `folder` under the name that `write` returns once it has written it; replaces one of that name.

    It is written under another name and renamed, so a reader never sees half of it, and a link planted under either
    name is not followed. Raises OSError, leaving nothing behind.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with open(temporary, "xb") as file:
            name = write(file)
        os.replace(temporary, folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sweep(folder)
    return folder / name


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while writing left behind."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if not _TEMPORARY_NAME.fullmatch(path.name):
                continue
            if time.time() - path.stat().st_mtime > STALE_AFTER_S:
                path.unlink()
