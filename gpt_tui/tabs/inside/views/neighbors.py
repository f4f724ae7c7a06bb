"""View Neighbors: the nearest tokens in the embedding, and a map of the most used ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from gpt_core import interpret
from gpt_core.errors import ConfigError
from gpt_tui.shared.formatting import percent
from gpt_tui.shared.sanitize import printable
from gpt_tui.shared.spans import Line, Span, SpanStyle, shortened, side_by_side
from gpt_tui.tabs.inside.views.view import Cursor, Frame, InsideView, Task

NEAREST = 10
MAPPED = 300  # tokens of the map
NAME_WIDTH = 14
PANEL_WIDTH = 36
MIN_WIDTH = 100  # with the list beside the map
MIN_LIST_ROWS = 6
DOT = "·"


class Near(NamedTuple):
    """A token near another one."""

    id: int
    name: str
    cosine: float


class MapToken(NamedTuple):
    """A token of the map, with its coordinates from 0 to 1."""

    id: int
    name: str
    x: float
    y: float


class Neighborhood(NamedTuple):
    """Neighbors of the tokens of a text, and the map.

    Attributes:
        ids: Tokens of the text.
        names: Their text.
        nearest: Nearest tokens by id of a token of the text.
        map: The most used tokens, the most used first.
        explained: Fraction of the variance that the map shows.
    """

    ids: Sequence[int]
    names: Sequence[str]
    nearest: Mapping[int, Sequence[Near]]
    map: Sequence[MapToken]
    explained: float


class NeighborsView(InsideView[Neighborhood]):
    """The tokens whose embeddings are nearest to that of the token at the cursor, and a map."""

    name = "neighbors"
    title = "Neighbors"

    def compute(self, task: Task) -> Iterator[Neighborhood]:
        """Yield neighbors and map."""
        subject = task.subject
        used, ids = subject.used_ids(), subject.ids.tolist()
        if len(used) < 3:
            raise ConfigError("the view Neighbors needs at least three tokens with text")
        if subject.gpt.shape.d_model < 2:
            raise ConfigError("the view Neighbors needs a model with at least two channels")
        asked = np.unique(subject.ids)
        parameters = subject.gpt.parameters
        found = interpret.neighbors(parameters, asked, NEAREST, used)
        nearest = {
            int(token): tuple(Near(int(i), subject.text(i), float(c)) for i, c in zip(near, cosines, strict=True))
            for token, near, cosines in zip(asked, found.ids, found.cosines, strict=True)
        }
        subject.progress("drawing the map", 0.0)
        mapped = most_used(np.concatenate([subject.eval_ids, subject.ids]), used)
        places = interpret.embedding_map(parameters, mapped)
        corner, size = places.coordinates.min(axis=0), np.ptp(places.coordinates, axis=0)
        scaled = (places.coordinates - corner) / np.where(size > 0, size, 1)
        tokens = [MapToken(int(token), printable(subject.text(token)), float(x), float(y))
                  for token, (x, y) in zip(mapped, scaled, strict=True)]  # fmt: skip
        yield Neighborhood(ids, subject.texts(), nearest, tokens, float(places.explained.sum()))

    def lines(self, result: Neighborhood, frame: Frame) -> Sequence[Line]:
        """Return the list and the map, beside each other if there is room."""
        width, height = frame.size
        if width >= MIN_WIDTH:
            found = list_lines(result, frame.cursor, PANEL_WIDTH - 2, height)
            return side_by_side(
                map_lines(result, frame.cursor, width - PANEL_WIDTH - 2, height), found, width - PANEL_WIDTH
            )
        rows = min(height, max(MIN_LIST_ROWS, height // 3))
        found = list_lines(result, frame.cursor, width, rows)
        return [*found, *map_lines(result, frame.cursor, width, height - len(found))][:height]


def most_used(ids: NDArray[np.int32], used: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most frequent of the `used` ids in a text, the most frequent first; others fill the number up."""
    counts = np.bincount(ids, minlength=int(used.max()) + 1)[used]
    return used[np.argsort(-counts, kind="stable")][:MAPPED]


def list_lines(result: Neighborhood, cursor: Cursor, width: int, rows: int) -> list[Line]:
    """Return the token at the cursor and its nearest tokens, in at most `rows` lines."""
    token = min(cursor.token, len(result.ids) - 1)
    title = f"nearest to {printable(result.names[token])}"
    lines: list[Line] = [[Span(shortened(title, width), style="title"), Span("  cosine", style="muted")]]
    room = max(0, width - NAME_WIDTH - 8)
    for near in result.nearest[result.ids[token]][: rows - 1]:
        name = shortened(printable(near.name), NAME_WIDTH)
        bar = "█" * round(room * max(0.0, near.cosine))
        lines.append(
            [Span(name + " " * (NAME_WIDTH - cell_len(name))), Span(f" {near.cosine:5.2f} "), Span(bar, style="mark")]
        )
    return lines


def map_lines(result: Neighborhood, cursor: Cursor, width: int, rows: int) -> list[Line]:
    """Return the map: names where there is room, the most used first, and dots for the others."""
    if rows < 3 or width < 10:
        return []
    chosen = result.ids[min(cursor.token, len(result.ids) - 1)]
    near = {token.id for token in result.nearest[chosen]}
    looks: dict[int, SpanStyle] = {token.id: "cursor" if token.id == chosen else "mark" if token.id in near else ""
                                   for token in result.map}  # fmt: skip
    grid: list[list[tuple[int, Span]]] = [[] for _ in range(rows - 1)]
    order = sorted(result.map, key=lambda token: (token.id != chosen, token.id not in near))
    for token in order:
        name = shortened(token.name, NAME_WIDTH)
        size = cell_len(name)
        row = grid[round((1 - token.y) * (rows - 2))]
        column = round(token.x * max(0, width - size))
        target = cursor._replace(token=result.ids.index(token.id)) if token.id in result.ids else None
        if is_free(row, column - 1, size + 2):
            row.append((column, Span(name, style=looks[token.id], at=target)))
        elif is_free(row, column, 1):
            row.append((column, Span(DOT, style=looks[token.id] or "muted", at=target)))
    text = f"map of the {len(result.map)} most used tokens ({percent(result.explained)} of the variance)"
    return [[Span(shortened(text, width), style="muted")], *(placed(row) for row in grid)]


def is_free(row: Sequence[tuple[int, Span]], column: int, size: int) -> bool:
    """Return True if no span of a row is at these columns."""
    return all(start + cell_len(span.text) <= column or column + size <= start for start, span in row)


def placed(row: Sequence[tuple[int, Span]]) -> Line:
    """Return spans at their columns as a line."""
    line: list[Span] = []
    end = 0
    for column, span in sorted(row, key=lambda each: each[0]):
        line += [Span(" " * (column - end)), span]
        end = column + cell_len(span.text)
    return line
