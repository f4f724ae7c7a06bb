"""Rows of a panel as Textual content."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content

from gpt_tui.shared.rows import RULE, TONE_STYLES, Row
from gpt_tui.shared.wrapping import wrapped


def render_rows(rows: Iterable[Row], width: int, label_width: int) -> Content:
    """Return the lines of a panel `width` cells wide."""
    return Content("\n").join(render_row(row, width, label_width) for row in rows)


def render_row(row: Row, width: int, label_width: int) -> Content:
    """Return a line: label and value, or a rule."""
    if row == RULE:
        return Content.styled("─" * width, "$foreground 15%")
    if not row.value:
        return Content.styled(row.label, "$muted").truncate(max(1, width), ellipsis=True)
    value = Content.styled(row.value, TONE_STYLES[row.tone]).truncate(max(1, width - label_width), ellipsis=True)
    return Content.assemble((row.label.ljust(label_width), "$muted"), value)


def render_keys(title: str, keys: Iterable[tuple[str, str]], key_width: int, width: int) -> list[Content]:
    """Return the lines of a table of keys: a title, and the wrapped description of each key beside its names.

    Names that are wider than their column have a line of their own.
    """
    lines = [Content.styled(title, "bold $primary")]
    for names, description in keys:
        if len(names) >= key_width:
            lines.append(Content.styled(names, "bold $key"))
            names = ""
        for part in wrapped(description, max(1, width - key_width)):
            lines.append(Content.assemble((names.ljust(key_width), "bold $key"), part))
            names = ""
    return lines
