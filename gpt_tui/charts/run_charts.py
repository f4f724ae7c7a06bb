"""Charts of one run: the loss above another metric, with a common view."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import reactive

from gpt_tui.charts.chart import Chart
from gpt_tui.charts.export import samples_markdown
from gpt_tui.charts.series import Axis, Range, full_range, second_metrics
from gpt_tui.charts.view import ChartView, next_option
from gpt_tui.session.run_state import RunState


class RunCharts(Vertical):
    """Charts of a run. Keys and mouse change `view`, which all charts share.

    Where only one chart is displayed, it shows the chosen metric; it begins with the loss.
    """

    view: reactive[ChartView] = reactive(ChartView)
    metric_name: reactive[str] = reactive("")
    """The chosen metric, "" before one was chosen."""

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
        """Lay out the loss above the second metric."""
        yield Chart("train_loss", classes="loss")
        yield Chart("perplexity", classes="second")

    def on_mount(self) -> None:
        """Align the charts, so that a step is in the same column in all of them."""
        charts = list(self.query(Chart))
        for chart in charts:
            chart.aligned = [other for other in charts if other is not chart]
        self._choose()

    def on_resize(self) -> None:
        """Choose the metrics again: another size may display one chart more or less."""
        self._choose()

    @property
    def visible_charts(self) -> list[Chart]:
        """The charts that are displayed."""
        return [chart for chart in self.query(Chart) if chart.display]

    @property
    def metric_options(self) -> tuple[str, ...]:
        """Metrics that can be chosen for the last displayed chart."""
        return second_metrics() if len(self.visible_charts) > 1 else ("train_loss", *second_metrics())

    def next_metric(self) -> None:
        """Choose the next metric."""
        self.metric_name = next_option(self.metric_options, self.visible_charts[-1].metric)

    def watch_metric_name(self) -> None:
        """Show the chosen metric."""
        self._choose()

    def _choose(self) -> None:
        """Show the loss and the chosen metric, or one of them where there is one chart."""
        charts = self.visible_charts
        if not charts:
            return
        options = self.metric_options
        chosen = self.metric_name if self.metric_name in options else options[0]
        for chart, name in zip(charts, ("train_loss", chosen)[-len(charts) :], strict=True):
            chart.metric, chart.is_lowest = name, chart is charts[-1]

    def show(self, state: RunState) -> None:
        """Draw a run."""
        self._state = state
        for chart in self.query(Chart):
            chart.state = state

    def exported(self) -> dict[str, str]:
        """Return the charts in view as SVG and CSV and the samples as Markdown, by file name."""
        files = {name: text for chart in self.visible_charts for name, text in chart.exported().items()}
        return files | ({"samples.md": samples_markdown(self._state)} if self._state.samples else {})

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
