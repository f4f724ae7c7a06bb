"""Find the files that a name stands for: a file, all files below a folder, or those that match a pattern.

Folders are searched in the order of their names. Links are followed, and each folder is entered once, so that a link to
a folder above it does no harm. Hidden files and folders, and what the program itself writes beside texts (caches,
checkpoints and logs), are left out.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gpt_core import files
from gpt_core.errors import CorpusError
from gpt_core.run_files import is_run_file
from gpt_core.text.cache_files import is_cache_name
from gpt_core.text.corpus import require_text, require_unbroken

MAX_FILES = 1 << 20
RECURSIVE = "**"  # component of a pattern that matches any number of folders
_WILDCARDS = re.compile(r"[*?\[]")


def is_pattern(name: str) -> bool:
    """Return True for a name with wildcards that is not the name of an existing file."""
    return bool(_WILDCARDS.search(name)) and not os.path.lexists(name)


def find_files(names: Sequence[str]) -> tuple[Path, ...]:
    """Return the files that the names stand for, in the order of the names; each file once.

    Raises:
        CorpusError: A name stands for no file, or a file or folder cannot be read.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in _files_of(name):
            found.setdefault(os.path.realpath(path), path)
            if len(found) > MAX_FILES:
                raise CorpusError(f"{name}: got more than {MAX_FILES:,} files; name a folder with fewer files")
    return tuple(found.values())


def _files_of(name: str) -> Iterable[Path]:
    """Return the files that one name stands for."""
    if os.path.isdir(name):
        found = list(_files_below(Path(name)))
        what, remedy = f"the folder {name} has no text files; put some there", ", or name another folder"
    elif is_pattern(name):
        path = Path(name)
        first = next(number for number, part in enumerate(path.parts) if _WILDCARDS.search(part))
        found = list(_matches(Path(*path.parts[:first]), path.parts[first:]))
        what, remedy = f"no file matches {name!r}", "; name a text file, a folder, or another pattern"
    else:
        require_text(Path(name))
        return (Path(name),)
    if not found:
        raise CorpusError(what, remedy)
    for path in found:
        require_unbroken(path)
        require_text(path)
    return sorted(found, key=lambda path: path.parts)


def _matches(folder: Path, pattern: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files below a folder that match the components of a pattern; of a folder that matches, all files."""
    part, rest = pattern[0], pattern[1:]
    if part == RECURSIVE:
        if rest in ((), ("*",)):
            yield from _files_below(folder)
        else:
            for below in _folders_below(folder):
                yield from _matches(below, rest)
        return
    for path in _entries(folder, part) if _WILDCARDS.search(part) else [folder / part]:
        if path.is_dir():
            yield from _matches(path, rest) if rest else _files_below(path)
        elif not rest and os.path.lexists(path):
            yield path


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder and in the folders below it."""
    for below in _folders_below(folder):
        yield from (path for path in _entries(below) if not path.is_dir())


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield a folder and the folders below it in the order of their names, each once, however links lead to it."""
    entered: set[str] = set()
    waiting = [folder]
    while waiting:
        below = waiting.pop()
        if (real := os.path.realpath(below)) not in entered:
            entered.add(real)
            yield below
            waiting += [path for path in reversed(_entries(below)) if path.is_dir()]


def _entries(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the entries of a folder that match a pattern, in the order of their names; none for a missing folder.

    Raises:
        CorpusError: The folder cannot be read.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise CorpusError(f"{folder} cannot be read: {files.reason(error)}", "; name another folder") from None
    show_hidden = pattern.startswith(".")
    paths = [
        folder / name
        for name in sorted(fnmatch.filter(names, pattern))
        if not is_cache_name(name) and (show_hidden or not name.startswith("."))
    ]
    return [path for path in paths if not is_run_file(path)]
