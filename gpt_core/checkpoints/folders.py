"""Names of models folders beside each other: `models`, `models-2`, `models-3`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

DEFAULT_NAME = "run"  # below a folder such as `.` or `/`, which has no name to number


def numbered_folders(folder: Path | str) -> Iterator[Path]:
    """Yield a folder and, without end, those beside it with the next numbers: `models`, `models-2`, `models-3`."""
    first = Path(folder)
    if first.name in ("", ".."):
        first = first / DEFAULT_NAME
    stem, number = re.fullmatch(r"(.*?)(?:-([1-9]\d{0,8}))?", first.name, re.DOTALL).groups()  # type: ignore[union-attr]
    yield first
    for following in count(int(number or 1) + 1):
        yield first.with_name(f"{stem}-{following}")


def next_free_folder(folder: Path | str) -> Path:
    """Return the first of the folders after this one, as numbered, at whose path there is nothing."""
    following = numbered_folders(folder)
    next(following)
    return next(path for path in following if not os.path.lexists(path))
