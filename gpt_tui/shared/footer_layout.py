"""Layout of the footer: which keys fit, and their columns. Does not import Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class FooterKey(NamedTuple):
    """Active key.

    Attributes:
        press: Textual's name of the key.
        shown: Name shown to the user.
        label: Name of its action.
        enabled: The action is possible now.
    """

    press: str
    shown: str
    label: str
    enabled: bool = True

    @property
    def width(self) -> int:
        """Width in cells, with a space before, between and after key and label."""
        return len(self.shown) + len(self.label) + 3


class Placed(NamedTuple):
    """Key and its first column."""

    column: int
    key: FooterKey


def placed(keys: Sequence[FooterKey], last: FooterKey | None, width: int) -> list[Placed]:
    """Lay out as many keys as fit from the left, and `last`, which has priority, at the right edge."""
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
    """Return the key under a column, None if there is none."""
    return next((key for start, key in line if start <= column < start + key.width), None)
