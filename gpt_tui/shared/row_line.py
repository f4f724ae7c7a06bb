"""Drawing of a row."""

from __future__ import annotations

from textual.content import Content

from gpt_tui.shared.rows import RULE, TONE_STYLES, Row

LABEL_WIDTH = 10


def row_line(row: Row, width: int, label_width: int = LABEL_WIDTH) -> Content:
    """Return a row as one line of at most `width` cells: label and value, or a rule."""
    if row == RULE:
        return Content.styled("─" * width, "$foreground 15%")
    room = max(1, width - label_width)
    value = Content.styled(row.value, TONE_STYLES[row.tone]).truncate(room, ellipsis=True)
    return Content.assemble((row.label.ljust(label_width), "$foreground 60%"), value)
