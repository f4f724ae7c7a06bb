"""Rows of a panel as Textual content."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content

from gpt_tui.shared.rows import RULE, TONE_STYLES, Row


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
