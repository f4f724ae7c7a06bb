"""View Lens: the token that the model would predict after each of its parts, at the positions around the cursor."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import set_cell_size

from gpt_core import interpret
from gpt_tui.session.inside.predictions import Alternative, alternatives
from gpt_tui.shared.formatting import integer, place_name, probability
from gpt_tui.shared.sanitize import printable
from gpt_tui.shared.spans import Line, Span, SpanStyle, fitted, shortened
from gpt_tui.tabs.inside.views.view import Cursor, Frame, InsideView, Move, Size, Task, moved

LABEL_WIDTH, CELL_WIDTH = 10, 9
FIXED_ROWS = 6  # legend, two rows of tokens, an empty line, and two lines at the cursor
ALTERNATIVES = 8
LEGEND = (0.05, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class LensResult:
    """Predictions from the residual stream at consecutive positions.

    Attributes:
        first: The first position.
        names: Tokens at the positions, and one after them.
        places: Names of the places of the residual stream.
        predictions: The most probable next tokens, by place and position.
    """

    first: int
    names: Sequence[str]
    places: Sequence[str]
    predictions: Sequence[Sequence[Sequence[Alternative]]]


class LensView(InsideView[LensResult]):
    """A row per place of the residual stream, a column per position."""

    name = "lens"
    title = "Lens"

    def needs(self, cursor: Cursor, size: Size) -> Hashable:
        """Return the visible positions: no others are computed."""
        return first_position(cursor, size), columns_of(size)

    def compute(self, task: Task) -> Iterator[LensResult]:
        """Yield the predictions at the visible positions."""
        subject, columns = task.subject, columns_of(task.size)
        first = max(0, min(first_position(task.cursor, task.size), len(subject.ids) - columns))
        positions = range(first, min(first + columns, len(subject.ids)))
        lens = interpret.logit_lens(subject.gpt, subject.batch, ALTERNATIVES, positions)
        predictions = [
            [alternatives(subject.tokenizer, ids, p) for ids, p in zip(at_ids, at_p, strict=True)]
            for at_ids, at_p in zip(lens.ids[:, 0], lens.probabilities[:, 0], strict=True)
        ]
        names = [subject.text(token) for token in subject.ids[first : first + len(positions) + 1]]
        yield LensResult(first, names, [place_name(place) for place in lens.places], predictions)

    def lines(self, result: LensResult, frame: Frame) -> Sequence[Line]:
        """Return the table, with the rows around the cursor, and the predictions at the cursor."""
        width, height = frame.size
        count = len(result.predictions[0])
        rows = max(1, min(len(result.places), height - FIXED_ROWS))
        top = max(0, min(frame.cursor.place - rows // 2, len(result.places) - rows))
        lines: list[Line] = [legend(), *heading(result, frame.cursor, count)]
        lines += [place_row(result, frame.cursor, place) for place in range(top, top + rows)]
        column = frame.cursor.token - result.first
        if 0 <= column < count:
            lines += [(), *details(result, frame.cursor, column, width)]
        return [fitted(line, width) for line in lines][:height]

    def moved(self, result: LensResult, frame: Frame, move: Move) -> Cursor:
        """Return the cursor: up and down are places of the residual stream."""
        if move not in ("up", "down"):
            return moved(frame.cursor, frame.extent, move)
        place = frame.cursor.place + (1 if move == "down" else -1)
        return at_place(frame.cursor, max(0, min(place, len(result.places) - 1)))


def columns_of(size: Size) -> int:
    """Return the number of positions that fit."""
    return max(1, (size.width - LABEL_WIDTH) // CELL_WIDTH)


def first_position(cursor: Cursor, size: Size) -> int:
    """Return the first position of the page with the cursor."""
    columns = columns_of(size)
    return cursor.token // columns * columns


def at_place(cursor: Cursor, place: int) -> Cursor:
    """Return the cursor at a place of the residual stream, and at the layer that it belongs to."""
    return cursor._replace(place=place, layer=max(0, (place - 1) // 2))


def legend() -> Line:
    """Return what is shown, and what the colors mean."""
    levels = [Span(f" {level:.0%} ", level) for level in LEGEND]
    return [Span("most probable next token if the model ended there: ", style="muted"), *levels]


def heading(result: LensResult, cursor: Cursor, count: int) -> list[Line]:
    """Return the rows of the tokens that are read and of those that follow."""

    def row(label: str, names: Sequence[str], *, is_read: bool) -> Line:
        spans = [Span(f"{label:<{LABEL_WIDTH}}", style="muted")]
        for column in range(count):
            name = printable(names[column]) if column < len(names) else ""
            here = result.first + column == cursor.token
            at = cursor._replace(token=result.first + column)
            spans.append(Span(cell(name), style="title" if here else "" if is_read else "muted", at=at))
        return spans

    return [row("reads", result.names, is_read=True), row("next is", result.names[1:], is_read=False)]


def cell(text: str) -> str:
    """Return the text of a column, with a space after it."""
    return set_cell_size(shortened(text, CELL_WIDTH - 1), CELL_WIDTH)


def place_row(result: LensResult, cursor: Cursor, place: int) -> Line:
    """Return the predictions at one place. A tick marks the token that follows in the text."""
    here = place == cursor.place
    spans = [Span(f"{result.places[place]:<{LABEL_WIDTH}}", style="title" if here else "muted")]
    for column, options in enumerate(result.predictions[place]):
        best, position = options[0], result.first + column
        is_right = column + 1 < len(result.names) and best.name == result.names[column + 1]
        text = shortened(printable(best.name), CELL_WIDTH - 1 - 2 * is_right) + (" ✓" if is_right else "")
        style: SpanStyle = "cursor" if here and position == cursor.token else ""
        at = at_place(cursor, place)._replace(token=position)
        spans.append(Span(cell(text), best.probability, style=style, at=at))
    return spans


def details(result: LensResult, cursor: Cursor, column: int, width: int) -> list[Line]:
    """Return the place and the position of the cursor, and the most probable tokens there."""
    place = min(cursor.place, len(result.places) - 1)
    where = f"after {result.places[place]}, at position {integer(cursor.token)} {printable(result.names[column])}"
    options = result.predictions[place][column]
    found = "  ".join(f"{printable(option.name)} {probability(option.probability)}" for option in options)
    return [[Span(shortened(where, width), style="title")], [Span(shortened(found, width))]]
