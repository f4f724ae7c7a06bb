"""Rows of a panel: label, value, tone. Does not import Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Tone = Literal["plain", "good", "bad", "dim"]

TONE_STYLES: dict[Tone, str] = {
    "plain": "", "good": "$text-success", "bad": "bold $text-error", "dim": "$muted",
}  # fmt: skip
"""Textual style of each tone."""


class Row(NamedTuple):
    """Row of a panel.

    Attributes:
        label: Name of the value; of a row without a value it may be longer than the column of labels.
        value: Formatted value.
        tone: Emphasis of the value.
    """

    label: str
    value: str
    tone: Tone = "plain"


RULE = Row("", "")


def fit_rows(rows: Sequence[Row], height: int, dropped_first: Sequence[str] = ()) -> list[Row]:
    """Return the rows that fit into `height` lines: without rules if they do not fit, then without optional rows.

    Args:
        rows: All rows.
        height: Lines of the panel.
        dropped_first: Labels of the optional rows, least important first.
    """
    fitting = list(rows)
    if len(fitting) > height:
        fitting = [row for row in fitting if row != RULE]
    for label in dropped_first:
        if len(fitting) > height:
            fitting = [row for row in fitting if row.label != label]
    return fitting


def longest_fitting(options: Sequence[str], width: int) -> str:
    """Return the first option of at most `width` characters, else the last one; options become shorter."""
    return next((text for text in options if len(text) <= width), options[-1])
