"""The two charts of a run, one above the other: loss and perplexity, looked at in the same way."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import reactive

from gpt_tui.charts.chart import Chart
from gpt_tui.charts.series import Axis, Range, whole_range
from gpt_tui.charts.view import ChartView
from gpt_tui.session.run_state import RunState


class RunCharts(Vertical):
    """Takes a history and draws it; keys and mouse change the view that both charts share."""

    view: reactive[ChartView] = reactive(ChartView)

    class Pointed(Message):
        """The cursor is at another place of the axis, or nowhere (None)."""

        def __init__(self, axis: Axis, x: float | None) -> None:
            super().__init__()
            self.axis = axis
            self.x = x

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._history = RunState()

    def compose(self) -> ComposeResult:
        """Loss above perplexity."""
        yield Chart("loss", classes="loss")
        yield Chart("perplexity", classes="perplexity")

    def on_mount(self) -> None:
        """One step is in one column, above and below."""
        charts = list(self.query(Chart))
        for chart in charts:
            chart.aligned = [other for other in charts if other is not chart]

    def show(self, history: RunState) -> None:
        """Draws the run as it is now."""
        self._history = history
        for chart in self.query(Chart):
            chart.history = history

    @property
    def whole(self) -> Range:
        """The part of the x axis that there is."""
        return whole_range(self._history, self.view.axis)

    def watch_view(self, before: ChartView, view: ChartView) -> None:
        """Both charts follow."""
        for chart in self.query(Chart):
            chart.view = view
        if view.cursor != before.cursor:
            self.post_message(self.Pointed(view.axis, view.cursor))

    @on(Chart.ViewWanted)
    def _chart_wants(self, message: Chart.ViewWanted) -> None:
        message.stop()
        self.view = message.view

    def zoom(self, factor: float) -> None:
        """Shows a shorter or longer part of the run."""
        self.view = self.view.zoomed(factor, self.whole)

    def pan(self, share: float) -> None:
        """Shows an earlier or later part of the run."""
        self.view = self.view.panned(share, self.whole)

    def move_cursor(self, columns: int) -> None:
        """Reads the charts so many columns further right."""
        share = columns / max(1, self.query(Chart).first().columns)
        self.view = self.view.with_cursor_moved(share, self.whole)
