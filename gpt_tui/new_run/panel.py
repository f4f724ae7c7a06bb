"""Panel of the set-up screen: the estimate of the run."""

from __future__ import annotations

import textwrap

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from gpt_tui.new_run.estimate import DETAIL, RunEstimate, estimate_rows
from gpt_tui.shared.row_rendering import render_rows
from gpt_tui.shared.rows import Row, fit_rows

LABEL_WIDTH = 11


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
