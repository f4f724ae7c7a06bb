"""Comparison of several runs: a chart with a line per run, and its legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from gpt_core.training.events import EvalCompleted
from gpt_core.training.metrics import Metric, metric
from gpt_tui.charts.chart import Chart
from gpt_tui.charts.export import SvgLine, overlay_csv, overlay_lines
from gpt_tui.charts.labels import first_fitting
from gpt_tui.charts.overlay import (
    FIRST_RUN_LAYER,
    MAX_RUNS,
    NamedRun,
    OverlaySeries,
    combined_range,
    compared_metrics,
    overlay_raster,
    overlay_series,
)  # fmt: skip
from gpt_tui.charts.raster import ABOVE_CHARACTER, CURSOR, GRID, Raster
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.charts.series import Plane, Range
from gpt_tui.charts.view import ChartView
from gpt_tui.shared.formatting import metric_value
from gpt_tui.shared.titled import Titled
from gpt_tui.tabs.runs.presenter import chart_title, legend, place_of

RUN_CLASSES = {FIRST_RUN_LAYER - 1 + number: f"chart--run-{number}" for number in range(1, MAX_RUNS + 1)}


class OverlayChart(Chart):
    """Chart with a line per run, labeled with the run's number."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(RUN_CLASSES.values())
    LAYERS: ClassVar[dict[int, str]] = {GRID: "chart--grid", CURSOR: "chart--cursor", **RUN_CLASSES}

    runs: reactive[tuple[NamedRun, ...]] = reactive((), repaint=False)

    def watch_runs(self) -> None:
        """Redraw with other data or runs."""
        self._invalidate()

    @property
    def full(self) -> Range:
        """The x range of all runs."""
        return combined_range(self.runs, self.view.axis)

    def series(self, columns: int, window: Range) -> Plane | None:
        """Return the runs' lines."""
        return overlay_series(
            self.runs, self.metric, self.view.axis, columns=columns, log=self.view.log, window=window,
            tight=self.view.y_range != "full",
        )  # fmt: skip

    def picture(self, series: Plane, columns: int, rows: int, grid: list[float]) -> Raster:
        """Return the characters of the lines."""
        assert isinstance(series, OverlaySeries)
        return overlay_raster(series, columns, rows, grid=grid, cursor=self.view.cursor)

    @property
    def _names(self) -> dict[int, str]:
        return {run.number: run.name for run in self.runs}

    def svg_lines(self, series: Plane, shown: Metric, colors: Mapping[str, str]) -> list[SvgLine]:
        """Return the runs' lines of the exported chart."""
        assert isinstance(series, OverlaySeries)
        return overlay_lines(series, self._names, colors)

    def as_csv(self, series: Plane, shown: Metric) -> str:
        """Return the exported data."""
        return overlay_csv(self.runs, shown)

    def _write_border(self) -> None:
        shown, plan = metric(self.metric), self._plan()
        unknown = shown.event is EvalCompleted and not any(run.state.evaluations for run in self.runs)
        more = ": no run has been evaluated yet" if unknown else ", log scale" if self.view.log else ""
        above = []
        if plan and plan[0].max_above is not None:
            above = [f"[dim]{ABOVE_CHARACTER} up to {metric_value(shown, plan[0].max_above, unit=False)}[/]"]
        names = [f"{chart_title(self.metric)}{more}", shown.label + more, shown.label]
        self.border_title = first_fitting([[name, *above] for name in names], self.size.width - 4) or shown.label


class OverlayLegend(Titled, Widget):
    """Number, name and value of each run, read at the cursor, and the settings that differ."""

    runs: reactive[tuple[NamedRun, ...]] = reactive(())
    metric_name: reactive[str] = reactive("train_loss")
    view: reactive[ChartView] = reactive(ChartView)
    details: reactive[tuple[str, ...]] = reactive(())
    note: reactive[str] = reactive("")

    def render(self) -> Content:
        """Draw a line per run and, where there is room, its details."""
        note = Content.styled(self.note, "bold $text-warning")
        noted = len(note.wrap(self.size.width)) + 1 if self.note and self.size.width else 0
        lines = legend(
            self.runs, self.details, self.metric_name, self.view.axis, self.view.cursor, width=self.size.width,
            height=max(len(self.runs), self.size.height - noted),
        )  # fmt: skip
        shown = []
        for number, text, value in lines:
            if number:
                gap = " " * max(1, self.size.width - cell_len(text) - len(value) - 5)
                run = (f"{number} ⠒⠒ ", f"bold $run-{number}")
                shown.append(Content.assemble(run, text, gap, (value, "bold")))
            else:
                shown.append(Content.styled(f"  {text}", "$muted"))
        if self.note:
            shown += [Content(""), note]
        return Content("\n").join(shown)


class CompareCharts(RunCharts):
    """Chart and legend of several runs, with the keys and the mouse of the charts of one run."""

    default_metric: reactive[str] = reactive("train_loss")
    """The metric that is shown until another one is chosen."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._runs: tuple[NamedRun, ...] = ()

    def compose(self) -> ComposeResult:
        """Lay out the chart and its legend."""
        yield OverlayChart("train_loss", classes="overlay")
        yield OverlayLegend(id="legend")

    @property
    def full(self) -> Range:
        """The x range of all runs."""
        return combined_range(self._runs, self.view.axis)

    def show_runs(self, runs: Sequence[NamedRun], details: Sequence[str], note: str) -> None:
        """Show runs with their details, and a note on whether they are comparable."""
        self._runs = tuple(runs)
        self.query_one(OverlayChart).runs = self._runs
        legend = self.query_one(OverlayLegend)
        legend.details, legend.note = tuple(details), note
        legend.runs = self._runs
        self._update_title()

    @property
    def metric_options(self) -> tuple[str, ...]:
        """Metrics in which runs can be compared."""
        return compared_metrics()

    @property
    def shown_metric(self) -> str:
        """The metric that is shown."""
        return self.metric_name or self.default_metric

    def watch_default_metric(self) -> None:
        """Show another default metric."""
        self._choose()

    def _choose(self) -> None:
        for chart in self.query(OverlayChart):
            chart.metric = self.shown_metric
        for part in self.query(OverlayLegend):
            part.metric_name = self.shown_metric
        self._update_title()

    def watch_view(self, before: ChartView, view: ChartView) -> None:
        """Update the legend with the cursor."""
        super().watch_view(before, view)
        for part in self.query(OverlayLegend):
            part.view = view
        self._update_title()

    def _update_title(self) -> None:
        place = place_of(self._runs, self.view.axis, self.view.cursor)
        for part in self.query(OverlayLegend):
            part.border_title = f"{metric(self.shown_metric).label} {place}"
