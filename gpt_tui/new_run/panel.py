"""Panels of the set-up screen: the estimate of the run, and the explanation of the focused field."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from gpt_core.config.validation import fields
from gpt_tui.new_run.effects import EFFECTS
from gpt_tui.new_run.estimate import MORE_WORDS, OPTIONAL, WORDS, RunEstimate, estimate_rows
from gpt_tui.shared.row_rendering import render_rows
from gpt_tui.shared.rows import Row, fit_rows

LABEL_WIDTH = 11


class FieldPanel(Static):
    """Explains the focused field: its meaning, its valid values, and what a change of it does."""

    def explain(self, name: str, meaning: str, valid_values: str) -> None:
        """Show the explanation of a field, or nothing if `name` is ""."""
        self.display = bool(name)
        if name:
            self.border_title = name
            meaning = meaning.removeprefix(f"{name}: ")
            choices = fields()[name].choices() if name in fields() else ()
            values = Content.styled(sentence(valid_values), "$muted")
            parts = (Content(sentence(meaning, choices)), values, Content(EFFECTS[name]))
            self.update(Content("\n\n").join(parts), layout=True)


def sentence(text: str, values: Sequence[str] = ()) -> str:
    """Return a text with an upper-case first letter, unless it starts with one of these values, and a full stop."""
    if text.partition(":")[0] not in values:
        text = text[:1].upper() + text[1:]
    return f"{text}."


class EstimatePanel(Widget):
    """Shows an estimate, nothing for None. Long values are wrapped."""

    estimate: reactive[RunEstimate | None] = reactive(None)

    def on_mount(self) -> None:
        """Set the title."""
        self.border_title = "estimate"

    def render(self) -> Content:
        """Draw the rows that fit."""
        rows = estimate_rows(self.estimate) if self.estimate is not None else []
        rows = wrapped_rows(rows, max(8, self.size.width - LABEL_WIDTH))
        return render_rows(fit_rows(rows, self.size.height, OPTIONAL), self.size.width, LABEL_WIDTH)


def wrapped_rows(rows: Sequence[Row], width: int) -> list[Row]:
    """Return rows of one line each, with values at most `width` wide; all lines of an optional row are optional."""
    lines = []
    for row in rows:
        parts = textwrap.wrap(row.value, width, break_on_hyphens=False) or [""]
        following = MORE_WORDS if row.label == WORDS else row.label if row.label in OPTIONAL else ""
        lines += [row._replace(value=parts[0]), *(Row(following, part, row.tone) for part in parts[1:])]
    return lines
