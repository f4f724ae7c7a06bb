"""Chart of a run, drawn in braille: step values, smoothed line, evaluations, readout at the cursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from gpt_core.training.events import EvalCompleted
from gpt_core.training.metrics import Metric, metric
from gpt_tui.charts.axes import YAxis, linear_ticks, tick_labels, time_labels, time_ticks, y_axis
from gpt_tui.charts.baselines import ChartBaseline, chart_baselines, draw_baselines
from gpt_tui.charts.export import SvgLine, baseline_lines, chart_lines, curve_csv, svg
from gpt_tui.charts.labels import legend, readout, title
from gpt_tui.charts.raster import (
    BASELINE,
    BEST,
    CURSOR,
    DOTS_X,
    EVAL,
    EVAL_LINE,
    GRID,
    INDUCTION,
    RAW,
    READ,
    SMOOTHED,
    Raster,
    raster,
    row_of,
)
from gpt_tui.charts.series import ChartSeries, Plane, Range, chart_series, full_range, shares_evaluations
from gpt_tui.charts.view import ChartView
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.theme import export_colors
from gpt_tui.shared.titled import Titled

LAYER_CLASSES = {
    GRID: "chart--grid",
    RAW: "chart--raw",
    SMOOTHED: "chart--smoothed",
    CURSOR: "chart--cursor",
    READ: "chart--read",
    EVAL: "chart--eval",
    EVAL_LINE: "chart--eval-line",
    BEST: "chart--best",
    INDUCTION: "chart--induction",
    BASELINE: "chart--baseline",
}
COLUMNS_PER_TICK = 8
EXPORT_COLUMNS, EXPORT_ROWS = 1200, 16  # resolution of an exported line, and rows that determine its ticks
MIN_WIDTH = 12  # nothing is drawn below
MIN_COLUMNS = 4  # minimum width of the plot area; the y axis is omitted where it would leave less
MIN_LABELLED_ROWS = 8  # minimum height with labels on the x axis; a lower chart has those of the chart below it


class Chart(Titled, Widget):
    """A metric over steps, tokens or time.

    Set `state`, `view` and `metric`, the name of a registered metric. `ViewChanged` is posted when the mouse changes
    the view.

    Attributes:
        aligned: Charts above or below, with which this one shares its columns.
        is_lowest: No chart below labels the x axis.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"chart--axis", "chart--label", *LAYER_CLASSES.values()}
    LAYERS: ClassVar[dict[int, str]] = LAYER_CLASSES

    state: reactive[RunState] = reactive(RunState, repaint=False)
    view: reactive[ChartView] = reactive(ChartView, repaint=False)
    metric: reactive[str] = reactive("train_loss", repaint=False)

    class ViewChanged(Message):
        """The mouse has zoomed, panned or moved the cursor."""

        def __init__(self, view: ChartView) -> None:
            super().__init__()
            self.view = view

    def __init__(self, name: str, *, classes: str) -> None:
        super().__init__(classes=classes)
        self.set_reactive(Chart.metric, name)
        self.aligned: Sequence[Chart] = ()
        self.is_lowest = True
        self._planned: tuple[Plane, YAxis] | None = None
        self._strips: list[Strip] | None = None
        self._styles: tuple[dict[int, Style], Style] | None = None
        self._margin = 0

    @property
    def columns(self) -> int:
        """Width of the plot area, in cells."""
        return max(1, self.size.width - self._margin)

    # -- input

    def watch_state(self) -> None:
        """Redraw with new data."""
        self._invalidate()

    def watch_view(self) -> None:
        """Redraw with another view."""
        self._invalidate()

    def watch_metric(self) -> None:
        """Redraw with another metric."""
        self._invalidate()

    def on_resize(self) -> None:
        """Redraw at another size."""
        self._invalidate()

    def notify_style_update(self) -> None:
        """Redraw with the colors of another theme."""
        super().notify_style_update()
        self._styles = None
        self._invalidate()

    def _invalidate(self) -> None:
        self._planned = None
        self._write_border()
        for chart in (self, *self.aligned):
            chart._strips = None
            chart.refresh()

    # -- data

    @property
    def full(self) -> Range:
        """The full x range."""
        return full_range(self.state, self.view.axis)

    @property
    def labeled(self) -> bool:
        """True if this chart labels its x axis."""
        return self.is_lowest or self.size.height >= MIN_LABELLED_ROWS

    def series(self, columns: int, window: Range) -> Plane | None:
        """Return the data in `window`, thinned to `columns` dot columns; None without data."""
        return chart_series(
            self.state, self.metric, self.view.axis, columns=columns, log=self.view.log, window=window,
            tight=self.view.is_tight(self.metric),
        )  # fmt: skip

    def picture(self, series: Plane, columns: int, rows: int, grid: list[float]) -> Raster:
        """Return the characters of the data."""
        assert isinstance(series, ChartSeries)
        drawn = raster(series, columns, rows, grid=grid, cursor=self.view.cursor)
        draw_baselines(drawn, series, self.baselines)
        return drawn

    @property
    def baselines(self) -> list[ChartBaseline]:
        """The baselines that the view shows."""
        return chart_baselines(self.state.baselines, self.metric) if self.view.baselines else []

    # -- drawing

    def render_line(self, y: int) -> Strip:
        """Return a line of the chart. All lines are drawn once per change."""
        if self._strips is None:
            self._strips = self._draw()
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    @property
    def _rows(self) -> int:
        """Height of the plot area, in cells."""
        return self.size.height - self.labeled

    def _plan(self) -> tuple[Plane, YAxis] | None:
        """Return data and y axis, computed once per change; None without data."""
        if self._planned is None and self.size.width >= MIN_WIDTH and self._rows > 0:
            series = self.series(max(1, self.size.width - 7) * DOTS_X, self.view.window(self.full))
            self._planned = (series, self._y_axis(series)) if series else None
        return self._planned

    def exported(self) -> dict[str, str]:
        """Return the visible part as SVG and the complete series as CSV, by file name; nothing without data.

        The SVG has the colors of the light theme, for print and pages.
        """
        series = self.series(EXPORT_COLUMNS, self.view.window(self.full))
        if series is None:
            return {}
        shown, colors = metric(self.metric), export_colors()
        scale = y_axis(series, EXPORT_ROWS, percent=shown.format == "percent")
        heading = f"{shown.label}, {shown.unit}" if shown.unit else shown.label
        drawing = svg(series, scale, self.view.axis, heading, self.svg_lines(series, shown, colors), colors)
        return {f"{self.metric}.svg": drawing, f"{self.metric}.csv": self.as_csv(series, shown)}

    def svg_lines(self, series: Plane, shown: Metric, colors: Mapping[str, str]) -> list[SvgLine]:
        """Return the lines of the exported chart."""
        assert isinstance(series, ChartSeries)
        return [*baseline_lines(series, self.baselines, colors), *chart_lines(series, shown, colors)]

    def as_csv(self, series: Plane, shown: Metric) -> str:
        """Return the exported data."""
        return curve_csv(self.state, shown)

    def _y_axis(self, series: Plane) -> YAxis:
        return y_axis(series, self._rows, percent=metric(self.metric).format == "percent")

    def _draw(self) -> list[Strip]:
        width, height = self.size.width, self._rows
        if width < MIN_WIDTH or height < 1:
            return []
        plan = self._plan()
        if plan is None:
            awaited = "evaluation" if metric(self.metric).event is EvalCompleted else "step"
            missing = f"the run ended before its first {awaited}"
            text = (missing if self.state.finished else f"waiting for the first {awaited}").center(width)[:width]
            style = self.rich_style + self.get_component_rich_style("chart--label")
            return [*[Strip.blank(width, self.rich_style)] * (height // 2), Strip([Segment(text, style)], width)]
        series, axis = plan
        others = [other[1] for chart in self.aligned if (other := chart._plan())]
        self._margin = max(each.width for each in (axis, *others)) + 1
        if width - self._margin < MIN_COLUMNS:
            self._margin = 0  # the curve matters more than its labels
        columns = width - self._margin
        picture = self.picture(series, columns, height, axis.ticks)
        rows = {int(row_of(t, series.y_range, height, series.log)): n for t, n in zip(*axis, strict=True)}
        styles, label_style = self._layer_styles()
        strips = []
        for row in range(height):
            label = f"{rows.get(row, '').rjust(self._margin - 1)} " if self._margin else ""
            runs = [Segment(text, styles.get(layer, self.rich_style)) for text, layer in picture.runs(row)]
            strips.append(Strip([Segment(label, label_style), *runs], width))
        return [*strips, self._x_axis(series, columns, label_style)] if self.labeled else strips

    def _layer_styles(self) -> tuple[dict[int, Style], Style]:
        """Return the styles of the layers and of the labels, looked up once per theme."""
        if self._styles is None:
            base = self.rich_style
            layers = {layer: base + self.get_component_rich_style(name) for layer, name in self.LAYERS.items()}
            self._styles = layers, base + self.get_component_rich_style("chart--label")
        return self._styles

    def _x_axis(self, series: Plane, columns: int, style: Style) -> Strip:
        """Return the labels below the chart, without those that would overlap or be cut."""
        low, high = series.x_range
        max_ticks = max(1, columns // COLUMNS_PER_TICK)
        if self.view.axis == "time":
            ticks = time_ticks(low, high, max_ticks)
            labels = time_labels(ticks)
        else:
            ticks = linear_ticks(low, high, max_ticks, min_step=1.0)
            labels = tick_labels(ticks)
        line = [" "] * (self._margin + columns)
        name = {"steps": "step", "tokens": "tok", "time": "time"}[self.view.axis]
        line[: len(name)] = name
        free = len(name) + 1
        for tick, label in zip(ticks, labels, strict=True):
            column = self._margin + int((tick - low) / (high - low) * columns)
            start = min(max(column - len(label) // 2, 0), len(line) - len(label))
            if start >= free:
                line[start : start + len(label)] = label
                free = start + len(label) + 1
        return Strip([Segment("".join(line)[: self.size.width], style)], self.size.width)

    # -- border

    def _write_border(self) -> None:
        """Write title and legend or readout; without a lower border, all of it is on the upper one."""
        plan = self._plan()
        max_above = plan[0].max_above if plan else None
        name = title(self.state, self.metric, self.view, max_above=max_above)
        framed = self.styles.border_bottom[0] not in ("", "none")
        shown = metric(self.metric)
        short_name = shown.axis if shares_evaluations(shown) else shown.label
        beside = 2 if framed else len(short_name) + 6
        note = readout(self.state, self.metric, self.view, self.size.width - beside)
        if note and not framed:
            name = short_name
        elif not note:
            taken = beside if framed else Content.from_markup(name).cell_length + 6
            note = legend(self.state, self.metric, self.size.width - taken)
        self.border_title = f"{name}  [$muted]{note}[/]" if note and not framed else name
        self.border_subtitle = note if framed else ""

    # -- mouse

    def _x_at(self, column: int) -> float | None:
        window = self.view.window(self.full)
        fraction = (column - self._margin + 0.5) / self.columns
        return window.low + fraction * window.span if 0 <= fraction <= 1 else None

    def _request(self, view: ChartView) -> None:
        self.post_message(self.ViewChanged(view))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Move the cursor with the mouse, and pan while a button is held."""
        x = self._x_at(event.get_content_offset_capture(self).x)
        view = self.view
        if event.button and event.delta_x:
            view = view.panned(-event.delta_x / self.columns, self.full)
        self._request(replace(view, cursor=x))

    def on_leave(self) -> None:
        """Remove the cursor."""
        self._request(replace(self.view, cursor=None))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in around the mouse."""
        self._zoom(0.8, event)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out around the mouse."""
        self._zoom(1.25, event)

    def _zoom(self, factor: float, event: events.MouseEvent) -> None:
        event.stop()
        x = self._x_at(event.get_content_offset_capture(self).x)
        self._request(self.view.zoomed(factor, self.full, x))
