"""Charts of one run: loss above perplexity, with a common view."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import reactive

from gpt_tui.charts.chart import Chart
from gpt_tui.charts.series import Axis, Range, full_range
from gpt_tui.charts.view import ChartView
from gpt_tui.session.run_state import RunState


class RunCharts(Vertical):
    """Charts of a run. Keys and mouse change `view`, which all charts share."""

    view: reactive[ChartView] = reactive(ChartView)

    class Pointed(Message):
        """The cursor has moved.

        Attributes:
            axis: The x axis.
            x: Place of the cursor on it, None without a cursor.
        """

        def __init__(self, axis: Axis, x: float | None) -> None:
            super().__init__()
            self.axis = axis
            self.x = x

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._state = RunState()

    def compose(self) -> ComposeResult:
        """Lay out loss above perplexity."""
        yield Chart("train_loss", classes="loss")
        yield Chart("perplexity", classes="perplexity")

    def on_mount(self) -> None:
        """Align the charts, so that a step is in the same column in all of them."""
        charts = list(self.query(Chart))
        for chart in charts:
            chart.aligned = [other for other in charts if other is not chart]

    def show(self, state: RunState) -> None:
        """Draw a run."""
        self._state = state
        for chart in self.query(Chart):
            chart.state = state

    @property
    def full(self) -> Range:
        """The full x range."""
        return full_range(self._state, self.view.axis)

    def watch_view(self, before: ChartView, view: ChartView) -> None:
        """Update all charts, and post `Pointed` if the cursor has moved."""
        for chart in self.query(Chart):
            chart.view = view
        if view.cursor != before.cursor:
            self.post_message(self.Pointed(view.axis, view.cursor))

    @on(Chart.ViewChanged)
    def _view_changed(self, message: Chart.ViewChanged) -> None:
        message.stop()
        self.view = message.view

    def zoom(self, factor: float) -> None:
        """Show `factor` times the visible range."""
        self.view = self.view.zoomed(factor, self.full)

    def pan(self, fraction: float) -> None:
        """Move by a fraction of the visible range."""
        self.view = self.view.panned(fraction, self.full)

    def move_cursor(self, columns: int) -> None:
        """Move the cursor by columns."""
        fraction = columns / max(1, self.query(Chart).first().columns)
        self.view = self.view.with_cursor_moved(fraction, self.full)
