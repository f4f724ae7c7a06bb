"""Access token of `gpt-tui serve`: keeps other users of the machine, who can reach its ports, out of the app.

The token is part of the address that the server prints. It is saved for the user, so that a page that is still open,
or a bookmark, connects to a server that is started again.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from gpt_core.home import cache_folder
from gpt_core.text.cache_files import new_cache_file

FILE_NAME = "serve-token"
TOKEN_BYTES = 24
TOKEN = re.compile(r"[\w-]{32}", re.ASCII)
OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO


def access_token() -> str:
    """Return the token in the user's cache folder; without one, a new token, which is saved there if possible."""
    new, folder = secrets.token_urlsafe(TOKEN_BYTES), cache_folder()
    if folder is None:
        return new
    path = folder / FILE_NAME
    if (saved := saved_token(path)) is not None:
        return saved
    with suppress(OSError):  # the next server then has another token
        save_token(path, new)
    return new


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
    with new_cache_file(path.parent) as cache:
        if os.name == "posix":
            os.fchmod(cache.file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        cache.file.write(token.encode())
        cache.publish(path.name)
