"""Access token of `gpt-tui serve`: keeps other users of the machine, who can reach its ports, out of the app.

The token is part of the address that the server prints. It is saved for the user, so that a page that is still open,
or a bookmark, connects to a server that is started again.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from gpt_core.home import cache_home

FILE_NAME = "serve-token"
TOKEN_BYTES = 24
TOKEN = re.compile(r"[\w-]{32}", re.ASCII)
OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO


def access_token() -> str:
    """Return the token in the user's cache folder; without one, a new token, which is saved there if possible."""
    caches = cache_home()
    path = caches / "gpt-tui" / FILE_NAME if caches is not None else None
    token = saved_token(path) if path is not None else None
    if token is None:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        if path is not None:
            with suppress(OSError):  # the next server then has another token
                save_token(path, token)
    return token


def saved_token(path: Path) -> str | None:
    """Return the token in a file that only this user can read, else None."""
    try:
        with path.open(encoding="ascii") as file:
            status = os.fstat(file.fileno())
            if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & OTHER_USERS):
                return None
            text = file.read(TOKEN_BYTES * 2)
    except (OSError, ValueError):
        return None
    return text if TOKEN.fullmatch(text) else None


def save_token(path: Path, token: str) -> None:
    """Write the token to a file that only this user can read, in place of an earlier one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{FILE_NAME}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
