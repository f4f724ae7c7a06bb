"""The user's home folder, and in it that for caches; an unknown user id without HOME has neither."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gpt_core.errors import ConfigError

PROGRAM = "gpt-tui"


def home_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the user's home folder, or None if it is unknown or no absolute path."""
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return None
    is_empty = environ.get("HOME") == ""  # `Path.home()` takes that for the root folder
    return home if home.is_absolute() and not is_empty else None


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder `gpt-tui` for caches, in `$XDG_CACHE_HOME`, else in `~/.cache`; None without a home folder."""
    folder = environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a path that is not absolute is to be ignored
    if os.path.isabs(folder):
        return Path(folder, PROGRAM)
    home = home_folder(environ)
    return home / ".cache" / PROGRAM if home is not None else None


def expand_home(name: str) -> Path:
    """Return the path with a leading `~` or `~user` replaced. Raises ConfigError if that home folder is unknown."""
    user, _, below = name.partition("/")
    if user == "~" and (home := home_folder()) is not None:
        return home / below.lstrip("/")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise ConfigError(f"got {name!r}, which begins with an unknown home folder; write ./ before a ~") from None
