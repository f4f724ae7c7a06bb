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
        kept: It is shown before keys that are not.
    """

    press: str
    shown: str
    label: str
    enabled: bool = True
    kept: bool = False

    @property
    def width(self) -> int:
        """Width in cells, with a space before, between and after key and label."""
        return len(self.shown) + len(self.label) + 3


class Placed(NamedTuple):
    """Key and its first column."""

    column: int
    key: FooterKey


def placed(keys: Sequence[FooterKey], last: FooterKey | None, width: int) -> list[Placed]:
    """Lay out the keys that fit, in their order, and `last` at the right edge; `last` and kept keys have priority."""
    room = width - (last.width if last else 0)
    kept_room = sum(key.width for key in keys if key.kept)
    line, column, is_full = [], 0, False
    for key in keys:
        if key.kept:
            kept_room -= key.width
        is_full = is_full or (not key.kept and column + key.width + kept_room > room)
        if (is_full and not key.kept) or column + key.width > room:
            continue
        line.append(Placed(column, key))
        column += key.width
    if last and last.width <= width:
        line.append(Placed(width - last.width, last))
    return line


def key_at(line: Sequence[Placed], column: int) -> FooterKey | None:
    """Return the key under a column, None if there is none."""
    return next((key for start, key in line if start <= column < start + key.width), None)
