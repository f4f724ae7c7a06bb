"""Lines of text in colors, as values that `Canvas` draws. Does not import Textual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

from rich.cells import cell_len, set_cell_size

SpanStyle = Literal["", "bold", "muted", "title", "good", "bad", "mark", "cursor"]
"""Look of a span besides its level"""

ELLIPSIS, SEPARATOR = "…", " · "


class Span(NamedTuple):
    """Text with one look.

    Attributes:
        text: The text, without line breaks.
        level: Level of the background, from 0 to 1; None for that of the screen.
        lower: Level of the lower half of each cell, of which `level` is then the upper half; the text is not shown.
        style: Look of the text.
        at: Value that a click selects; None for nothing.
    """

    text: str
    level: float | None = None
    lower: float | None = None
    style: SpanStyle = ""
    at: Hashable = None


Line = Sequence[Span]


def width_of(line: Line) -> int:
    """Return the width of a line in cells."""
    return sum(cell_len(span.text) for span in line)


def fitted(line: Line, width: int) -> list[Span]:
    """Return the line cut or filled up to exactly this width."""
    spans, left = [], width
    for span in line:
        size = cell_len(span.text)
        spans.append(span if size <= left else span._replace(text=set_cell_size(span.text, left)))
        left -= min(size, left)
        if not left:
            return spans
    return [*spans, Span(" " * left)]


def shortened(text: str, width: int) -> str:
    """Return text of at most this width in cells, with an ellipsis if it is cut."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + ELLIPSIS[: max(0, width)]


def shortened_names(names: Sequence[str], width: int) -> list[str]:
    """Return names of at most this width in cells, each cut where it stays unlike the others.

    Names of runs differ at the end, so they are cut at the start; those that would then be equal, in the middle.
    """
    cut = [_cut_after(name, width, 0) for name in names]
    count = Counter(cut)
    return [
        text if count[text] == 1 else _cut_after(name, width, width // 2) for name, text in zip(names, cut, strict=True)
    ]


def _cut_after(name: str, width: int, kept: int) -> str:
    """Return a name of at most this width; if it is cut, after `kept` cells of its start."""
    if cell_len(name) <= width:
        return name
    end = name[-width:]
    while cell_len(end) > max(0, width - kept - 1):
        end = end[1:]
    return set_cell_size(name, kept) + ELLIPSIS + end


def side_by_side(left: Sequence[Line], right: Sequence[Line], left_width: int) -> list[Line]:
    """Return the lines of two columns; the left one has this width."""
    rows = max(len(left), len(right))
    return [
        [*fitted(left[row] if row < len(left) else (), left_width), *(right[row] if row < len(right) else ())]
        for row in range(rows)
    ]


def joined(parts: Sequence[str], width: int) -> list[str]:
    """Return parts in as few lines as they fit into."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1] + SEPARATOR + part) <= width:
            lines[-1] += SEPARATOR + part
        else:
            lines.append(part)
    return [shortened(line, width) for line in lines]
