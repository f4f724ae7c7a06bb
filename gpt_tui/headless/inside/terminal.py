"""A view as text: in colors on a terminal, plain elsewhere. The tables hold all colored values as numbers, too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from gpt_tui.session.inside.view import Cell, Table, View
from gpt_tui.shared.ramp import shade
from gpt_tui.shared.spans import shortened
from gpt_tui.shared.wrapping import wrapped

MAX_CELLS, MIN_CELLS = 24, 12  # width of a label, at most; of another column on a narrow terminal, at least
GAP = "  "
TOKEN_END = "|"  # between the tokens of a passage


def print_view(view: View) -> None:
    """Print a view on standard output."""
    console = Console(highlight=False, markup=False, emoji=False)
    width = console.width if console.is_terminal else None
    dark = is_dark(os.environ.get("COLORFGBG", ""))
    lines = [line for text in view.lines for line in (wrapped(text, width) if width else [text])]
    parts = [Text(view.title, "bold" if console.is_terminal else ""), *map(Text, lines)]
    if view.legend and console.is_terminal:
        parts.append(Text.assemble("colors: ", *(painted(cell, dark) for cell in view.legend)))
    parts += passage_lines(view.passage, width, dark)
    for table in view.tables:
        parts += [Text(""), *table_lines(table, width, dark)]
    for part in parts:
        console.print(part, soft_wrap=True)


def is_dark(colors: str) -> bool:
    """Return True unless COLORFGBG, which some terminals set to `foreground;background`, names a light background."""
    return colors.rpartition(";")[2] not in ("7", "15")


def painted(cell: Cell, dark: bool) -> Text:
    """Return the text of a cell on the color of its level."""
    colors = None if cell.level is None else shade(cell.level, dark=dark)
    return Text(cell.text, "" if colors is None else f"{colors.text} on {colors.background}")


def passage_lines(cells: Sequence[Cell], width: int | None, dark: bool) -> Iterator[Text]:
    """Yield the tokens of a text, each on its color, with a mark between them, in lines of at most `width` cells."""
    line = Text()
    for number, cell in enumerate(cells):
        mark = TOKEN_END if number < len(cells) - 1 else ""
        if width is not None and line and line.cell_len + cell_len(cell.text + mark) > width:
            yield line
            line = Text()
        line = line + painted(cell, dark) + Text(mark)
    if line:
        yield line


def table_lines(table: Table, width: int | None, dark: bool) -> Iterator[Text]:
    """Yield the lines of a table. A table wider than `width` is split into groups of columns."""
    widths = column_widths(table, width)
    for number, group in enumerate(column_groups(table, widths, width)):
        if number:
            yield Text("")
        yield Text(
            GAP.join(sized(table.columns[i].name, widths[i], table.columns[i].is_number) for i in group).rstrip()
        )
        for row in table.rows:
            line = Text(GAP).join(
                painted(Cell(sized(row[i].text, widths[i], table.columns[i].is_number), row[i].level), dark)
                for i in group
            )
            if row[group[-1]].level is None:
                line.rstrip()
            yield line


def column_widths(table: Table, width: int | None) -> list[int]:
    """Return the width of each column; within `width`, labels are limited, and others to what is left beside them."""
    widths = [
        max(cell_len(column.name), *(cell_len(row[i].text) for row in table.rows), 0)
        for i, column in enumerate(table.columns)
    ]
    if width is None:
        return widths
    labels = [i for i, column in enumerate(table.columns) if column.is_label]
    for i in labels:
        widths[i] = max(cell_len(table.columns[i].name), min(widths[i], MAX_CELLS))
    left = max(MIN_CELLS, width - sum(widths[i] + len(GAP) for i in labels))
    return [cells if i in labels else min(cells, left) for i, cells in enumerate(widths)]


def column_groups(table: Table, widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """Yield the numbers of the columns that fit beside each other, the labels first; at least one other column."""
    labels = [i for i, column in enumerate(table.columns) if column.is_label]
    used = sum(widths[i] + len(GAP) for i in labels)
    group, taken = list(labels), used
    for i in (i for i in range(len(table.columns)) if i not in labels):
        if width is not None and len(group) > len(labels) and taken + widths[i] > width:
            yield group
            group, taken = list(labels), used
        group.append(i)
        taken += widths[i] + len(GAP)
    yield group


def sized(text: str, width: int, is_number: bool) -> str:
    """Return text in exactly `width` cells."""
    text = shortened(text, width)
    return " " * (width - cell_len(text)) + text if is_number else set_cell_size(text, width)
