"""The line of keys at the bottom of the screen: which ones fit, and where each is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class FooterKey(NamedTuple):
    """A key that works now: `press` is Textual's name of it, `shown` the user's, `label` what it does in a word."""

    press: str
    shown: str
    label: str
    enabled: bool = True

    @property
    def width(self) -> int:
        """Cells: a space, the key, a space, the label, a space."""
        return len(self.shown) + len(self.label) + 3


class Placed(NamedTuple):
    """A key and the column it begins at."""

    column: int
    key: FooterKey


def placed(keys: Sequence[FooterKey], last: FooterKey | None, width: int) -> list[Placed]:
    """The keys from the left, as many as fit whole, and `last` at the right edge, which goes before any other."""
    room = width - (last.width if last else 0)
    line, column = [], 0
    for key in keys:
        if column + key.width > room:
            break
        line.append(Placed(column, key))
        column += key.width
    if last and last.width <= width:
        line.append(Placed(width - last.width, last))
    return line


def key_at(line: Sequence[Placed], column: int) -> FooterKey | None:
    """The key under a column."""
    return next((key for start, key in line if start <= column < start + key.width), None)
