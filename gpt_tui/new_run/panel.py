"""Panels of the set-up screen: the estimate of the run, and the explanation of the focused field."""

from __future__ import annotations

import textwrap

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from gpt_tui.new_run.effects import EFFECTS
from gpt_tui.new_run.estimate import DETAIL, RunEstimate, estimate_rows
from gpt_tui.new_run.fields import explanation
from gpt_tui.shared.row_rendering import render_rows
from gpt_tui.shared.rows import Row, fit_rows

LABEL_WIDTH = 11


class FieldPanel(Static):
    """Explains the focused field: its meaning, its valid values, and what a change of it does."""

    def explain(self, name: str, preset_name: str) -> None:
        """Show the explanation of a field, or nothing if `name` is ""."""
        self.display = bool(name)
        if name:
            self.border_title = name
            meaning, valid_values = explanation(name, preset_name)
            meaning = meaning.removeprefix(f"{name}: ")
            values = Content.styled(sentence(valid_values), "$muted")
            parts = (Content(sentence(meaning)), values, Content(EFFECTS[name]))
            self.update(Content("\n\n").join(parts), layout=True)


def sentence(text: str) -> str:
    """Return a text with an upper-case first letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


class EstimatePanel(Widget):
    """Shows an estimate. Long values are wrapped."""

    estimate: reactive[RunEstimate] = reactive(RunEstimate)

    def on_mount(self) -> None:
        """Set the title."""
        self.border_title = "estimate"

    def render(self) -> Content:
        """Draw the rows that fit."""
        lines = []
        for row in fit_rows(estimate_rows(self.estimate), self.size.height, (DETAIL,)):
            parts = textwrap.wrap(row.value, max(8, self.size.width - LABEL_WIDTH), break_on_hyphens=False) or [""]
            lines += [Row("" if number else row.label, part, row.tone) for number, part in enumerate(parts)]
        return render_rows(lines, self.size.width, LABEL_WIDTH)
