"""Rows of panels: label, value and tone. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

Tone = Literal["plain", "good", "bad", "dim"]

TONE_STYLES: dict[Tone, str] = {
    "plain": "", "good": "$text-success", "bad": "bold $text-error", "dim": "$foreground 60%",
}  # fmt: skip


class Row(NamedTuple):
    """One row of a panel; a row without label and value is a rule."""

    label: str
    value: str
    tone: Tone = "plain"


RULE = Row("", "")
