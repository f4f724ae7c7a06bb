"""Status panel beside the charts."""

from __future__ import annotations

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from gpt_tui.run_view.status import DROPPED_FIRST, LABEL_WIDTH, status_rows
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.row_rendering import render_rows
from gpt_tui.shared.rows import Row, fit_rows
from gpt_tui.shared.titled import Titled


class StatusPanel(Titled, Widget):
    """Shows the status rows of a run that fit."""

    state: reactive[RunState] = reactive(RunState)
    status: reactive[SessionStatus] = reactive(SessionStatus(Phase.IDLE))

    def on_mount(self) -> None:
        """Set the title."""
        self.border_title = "run"

    def render(self) -> Content:
        """Draw the rows that fit."""
        return render_rows(fit_rows(self.rows(), self.size.height, DROPPED_FIRST), self.size.width, LABEL_WIDTH)

    def rows(self) -> list[Row]:
        """Return all rows."""
        return status_rows(self.state, self.status, self.size.width)
