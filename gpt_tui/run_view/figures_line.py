"""Line of figures above the charts, where there is no status panel."""

from __future__ import annotations

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from gpt_tui.run_view.figures import GAP, fitted_figures
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.rows import TONE_STYLES


class FiguresLine(Widget):
    """Shows the figures of a run that fit on one line."""

    state: reactive[RunState] = reactive(RunState)
    status: reactive[SessionStatus] = reactive(SessionStatus(Phase.IDLE))

    def render(self) -> Content:
        """Draw the figures that fit."""
        return Content(GAP).join(
            Content.assemble(
                (f"{figure.label} " if figure.label else "", "$muted"),
                (figure.value, TONE_STYLES[figure.tone] or "bold"),
            )
            for figure in fitted_figures(self.state, self.status, self.size.width)
        )
