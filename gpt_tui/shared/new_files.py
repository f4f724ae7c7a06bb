"""Files written beside others: an existing file is never replaced."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path


def write_new(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write texts into new files of a folder, with one number for all of them where a name is taken.

    Args:
        folder: The folder, made if it is missing.
        files: Text of each file by name, such as `chart.svg`; with the number 2 it is `chart-2.svg`.

    Returns:
        The paths of the files.

    Raises:
        OSError: A file could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        paths = [folder / numbered(name, number) for name in files]
        if not any(path.is_symlink() or path.exists() for path in paths):
            break
    for path, text in zip(paths, files.values(), strict=True):
        with open(path, "x", encoding="utf-8", newline="") as file:
            file.write(text)
    return paths


def numbered(name: str, number: int) -> str:
    """Return a file name with a number before its suffix; the first one has none."""
    path = Path(name)
    return name if number == 1 else f"{path.stem}-{number}{path.suffix}"
