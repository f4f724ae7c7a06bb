"""A text as tokens in colors: wrapped into lines of a given width, with a cursor on a token. No Textual."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from rich.cells import cell_len

from gpt_tui.shared.spans import Line, Span
from gpt_tui.shared.wrapping import line_spans

LINE_END = "↵"


class Passage(NamedTuple):
    """Tokens for reading.

    Attributes:
        texts: Their text, with spaces and line breaks as such.
        levels: Level of each; None for no background.
        bold: Number of the first tokens that are bold.
    """

    texts: tuple[str, ...]
    levels: Sequence[float | None]
    bold: int = 0


class Piece(NamedTuple):
    """Part of a token on one line."""

    token: int
    text: str


class Layout(NamedTuple):
    """Lines of a passage.

    Attributes:
        lines: Pieces of each line.
        line_of: Line of the first piece of each token that is more than spaces, if there is one.
    """

    lines: tuple[tuple[Piece, ...], ...] = ()
    line_of: tuple[int, ...] = ()


@lru_cache(maxsize=4)
def layout(texts: tuple[str, ...], width: int) -> Layout:
    """Wrap tokens into lines of at most `width` cells. Line feeds are visible; spaces at a break stay on their line."""
    texts = tuple(text.replace("\n", f"{LINE_END}\n") for text in texts)
    joined, owners = "".join(texts), [number for number, text in enumerate(texts) for _ in text]
    lines: list[tuple[Piece, ...]] = []
    line_of: dict[int, int] = {}
    blank: set[int] = set()  # tokens of which only spaces have been seen
    for start, stop in line_spans(joined, max(2, width - 1)):
        stop += joined[stop : stop + 1] == " "
        line: list[Piece] = []
        for place in range(start, stop):
            if line and line[-1].token == owners[place]:
                line[-1] = Piece(owners[place], line[-1].text + joined[place])
            else:
                line.append(Piece(owners[place], joined[place]))
        for piece in line:
            if piece.token not in line_of or piece.token in blank:
                line_of[piece.token] = len(lines)
                (blank.discard if piece.text.strip() else blank.add)(piece.token)
        lines.append(tuple(line))
    return Layout(tuple(lines), tuple(line_of.get(number, 0) for number in range(len(texts))))


def starts(line: Sequence[Piece]) -> list[tuple[int, int]]:
    """Return first column and token of each piece of a line."""
    columns = accumulate((cell_len(piece.text) for piece in line), initial=0)
    return [(column, piece.token) for column, piece in zip(columns, line, strict=False)]


def moved_by_lines(found: Layout, token: int, lines: int) -> int:
    """Return the token that is `lines` below another one, at about its column."""
    token = min(token, len(found.line_of) - 1)
    start = found.line_of[token]
    column = next(column for column, other in starts(found.lines[start]) if other == token)
    step = 1 if lines > 0 else -1
    line = min(max(0, start + lines), len(found.lines) - 1)
    while 0 <= line < len(found.lines):
        if found.lines[line]:
            return min((abs(first - column), other) for first, other in starts(found.lines[line]))[1]
        line += step
    return token


def passage_rows(
    passage: Passage, token: int, width: int, rows: int, target: Callable[[int], Hashable] = lambda token: token
) -> list[Line]:  # fmt: skip
    """Return at most `rows` lines of a passage, those around the cursor.

    Args:
        passage: The passage.
        token: The cursor.
        width: Cells per line.
        rows: Lines.
        target: Returns the value that a click on a token selects.
    """
    found = layout(passage.texts, width)
    at = found.line_of[min(token, len(found.line_of) - 1)] if found.line_of else 0
    first = max(0, min(at - rows // 2, len(found.lines) - rows))
    return [
        [
            Span(text, passage.levels[number], at=target(number),
                 style="cursor" if number == token else "bold" if number < passage.bold else "")
            for number, text in line
        ]
        for line in found.lines[first : first + rows]
    ]  # fmt: skip
