"""The panel beside the set-up form: what a run with these settings would take."""

from __future__ import annotations

import textwrap

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from gpt_tui.new_run.estimate import RunEstimate, roomy, summary_rows
from gpt_tui.shared.row_line import row_line
from gpt_tui.shared.rows import Row

LABEL_WIDTH = 11


class SetupPanel(Widget):
    """Shows the rows that `setup_summary` makes of what is known; long values go on below."""

    prospect: reactive[RunEstimate] = reactive(RunEstimate)

    def on_mount(self) -> None:
        """Its name."""
        self.border_title = "what it takes"

    def render(self) -> Content:
        """The rows."""
        lines = []
        for row in roomy(summary_rows(self.prospect), self.size.height):
            parts = textwrap.wrap(row.value, max(8, self.size.width - LABEL_WIDTH), break_on_hyphens=False) or [""]
            for number, part in enumerate(parts):
                line = Row("" if number else row.label, part, row.tone)
                lines.append(row_line(line, self.size.width, LABEL_WIDTH))
        return Content("\n").join(lines)
