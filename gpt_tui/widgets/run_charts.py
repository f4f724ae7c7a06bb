"""The two charts of a run, one above the other: loss and perplexity, looked at in the same way."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import reactive

from gpt_tui.chart_series import whole_range
from gpt_tui.chart_view import ChartView
from gpt_tui.run_history import RunHistory
from gpt_tui.widgets.chart import Chart


class RunCharts(Vertical):
    """Takes a history and draws it; keys and mouse change the view that both charts share."""

    view: reactive[ChartView] = reactive(ChartView)

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._history = RunHistory()

    def compose(self) -> ComposeResult:
        """Loss above perplexity."""
        yield Chart("loss", classes="loss")
        yield Chart("perplexity", classes="perplexity")

    def show(self, history: RunHistory) -> None:
        """Draws the run as it is now."""
        self._history = history
        for chart in self.query(Chart):
            chart.history = history

    def watch_view(self, view: ChartView) -> None:
        """Both charts follow."""
        for chart in self.query(Chart):
            chart.view = view

    @on(Chart.ViewWanted)
    def _chart_wants(self, message: Chart.ViewWanted) -> None:
        message.stop()
        self.view = message.view

    def zoom(self, factor: float) -> None:
        """Shows a shorter or longer part of the run."""
        self.view = self.view.zoomed(factor, whole_range(self._history, self.view.axis))

    def pan(self, share: float) -> None:
        """Shows an earlier or later part of the run."""
        self.view = self.view.panned(share, whole_range(self._history, self.view.axis))
