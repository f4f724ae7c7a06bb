"""The panel of numbers beside the charts."""

from __future__ import annotations

from typing import ClassVar

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from gpt_tui.run_view.status import RULE, Row, fitted, status_rows
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.titled import Titled

LABEL_WIDTH = 10
TONE_STYLES = {"plain": "", "good": "$text-success", "bad": "bold $text-error", "dim": "$foreground 60%"}


class StatusPanel(Titled, Widget):
    """Shows the rows that `run_status` makes of a history and the controller's facts."""

    label_width: ClassVar[int] = LABEL_WIDTH
    history: reactive[RunState] = reactive(RunState)
    facts: reactive[SessionStatus] = reactive(SessionStatus(Phase.IDLE))

    def on_mount(self) -> None:
        """Its name."""
        self.border_title = "run"

    def render(self) -> Content:
        """The rows that fit, each its label and its value."""
        rows = fitted(self.rows(), self.size.height)
        return Content("\n").join(row_line(row, self.size.width, self.label_width) for row in rows)

    def rows(self) -> list[Row]:
        """What there is to say, most important first."""
        return status_rows(self.history, self.facts, self.size.width)


def row_line(row: Row, width: int, label_width: int) -> Content:
    """One row: its label and its value; a rule across the width."""
    if row == RULE:
        return Content.styled("─" * width, "$foreground 15%")
    room = max(1, width - label_width)
    value = Content.styled(row.value, TONE_STYLES[row.tone]).truncate(room, ellipsis=True)
    return Content.assemble((row.label.ljust(label_width), "$foreground 60%"), value)
