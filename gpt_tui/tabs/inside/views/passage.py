"""A text as coloured tokens in lines of a given width, scrolled to the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len

from gpt_tui.tabs.inside.views.view import Cursor, Line, Span, shortened

LINE_BREAK = "⏎"


class Passage(NamedTuple):
    """Tokens as text, each with its level; None for no background."""

    texts: Sequence[str]
    levels: Sequence[float | None]

    def places(self, width: int) -> list[tuple[int, int]]:
        """Return row and column of each token."""
        places, row, column = [], 0, 0
        for text in self.texts:
            cells = min(cell_len(text), width)
            if column and column + cells > width:
                row, column = row + 1, 0
            places.append((row, column))
            column += cells
            if LINE_BREAK in text:
                row, column = row + 1, 0
        return places


def passage_rows(passage: Passage, cursor: Cursor, width: int, rows: int) -> list[Line]:
    """Return at most `rows` lines of a passage, those around the cursor; a click on a token moves the cursor to it."""
    places = passage.places(width)
    last = places[-1][0] if places else 0
    at = places[min(cursor.token, len(places) - 1)][0] if places else 0
    first = max(0, min(at - rows // 2, last + 1 - rows))
    lines: list[list[Span]] = [[] for _ in range(min(rows, last + 1))]
    for token, ((row, _), text, level) in enumerate(zip(places, passage.texts, passage.levels, strict=True)):
        if first <= row < first + len(lines):
            here = token == cursor.token
            target = cursor._replace(token=token, choice=None)
            lines[row - first].append(Span(shortened(text, width), level, style="cursor" if here else "", at=target))
    return list(lines)


def passage_text(name: str) -> str:
    """Return a token for reading in a passage: spaces as such, line breaks as a mark."""
    return name.replace("␣", " ").replace("\\r", "").replace("\\n", LINE_BREAK) or "·"
