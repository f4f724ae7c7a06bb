"""One chart of a run, drawn in braille: raw values, the smoothed line, evaluations, a readout where the mouse is."""

from __future__ import annotations

from collections.abc import Sequence
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

from gpt_tui.charts.labels import legend, readout, title
from gpt_tui.charts.raster import BEST, CURSOR, DOTS_X, EVAL, EVAL_LINE, GRID, RAW, READ, SMOOTHED, Raster, raster
from gpt_tui.charts.raster import vertical as vertical_place
from gpt_tui.charts.series import ChartSeries, Metric, Plane, Range, chart_series, whole_range
from gpt_tui.charts.ticks import linear_ticks, tick_labels, time_labels, time_ticks
from gpt_tui.charts.view import ChartView
from gpt_tui.charts.y_axis import Scale, y_scale
from gpt_tui.session.run_state import RunState
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
}
COLUMNS_A_TICK = 8
LEAST_WIDTH = 12  # below, nothing is drawn
LEAST_COLUMNS = 4  # of the curve's field; where labels would leave fewer, there are none
LOW_ROWS = 8  # a chart that is lower leaves the labels of the x axis to the one below it


class Chart(Titled, Widget):
    """The loss or the perplexity over steps, tokens or time.

    `history` and `view` come in; `ViewWanted` goes out when the mouse asks for another view: both charts follow.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"chart--axis", "chart--label", *LAYER_CLASSES.values()}
    LAYERS: ClassVar[dict[int, str]] = LAYER_CLASSES

    history: reactive[RunState] = reactive(RunState, repaint=False)
    view: reactive[ChartView] = reactive(ChartView, repaint=False)

    class ViewWanted(Message):
        """The mouse zoomed, panned or pointed."""

        def __init__(self, view: ChartView) -> None:
            super().__init__()
            self.view = view

    def __init__(self, metric: Metric, *, classes: str) -> None:
        super().__init__(classes=classes)
        self.metric: Metric = metric
        self.aligned: Sequence[Chart] = ()
        """The charts above or below this one: a step stands in the same column in all of them."""
        self._planned: tuple[Plane, Scale] | None = None
        self._strips: list[Strip] | None = None
        self._styles: tuple[dict[int, Style], Style] | None = None
        self._margin = 0

    @property
    def columns(self) -> int:
        """How many characters wide the curve's field is."""
        return max(1, self.size.width - self._margin)

    # -- what comes in

    def watch_history(self) -> None:
        """New data: drawn when the screen next asks for a line."""
        self._outdated()

    def watch_view(self) -> None:
        """Another part or scale."""
        self._outdated()

    def on_resize(self) -> None:
        """Another size."""
        self._outdated()

    def notify_style_update(self) -> None:
        """Another theme."""
        super().notify_style_update()
        self._styles = None
        self._outdated()

    def _outdated(self) -> None:
        self._planned = None
        self._write_border()
        for chart in (self, *self.aligned):
            chart._strips = None
            chart.refresh()

    # -- what is drawn

    @property
    def whole(self) -> Range:
        """The part of the x axis that there is."""
        return whole_range(self.history, self.view.axis)

    @property
    def labelled(self) -> bool:
        """Whether the x axis has its labels here."""
        return self.metric == "perplexity" or self.size.height >= LOW_ROWS

    def series(self, columns: int, window: Range) -> Plane | None:
        """What is to be drawn, thinned to so many dot columns; None while there is nothing."""
        return chart_series(
            self.history, self.metric, self.view.axis, columns=columns, log=self.view.log, window=window,
            close=self.view.is_close(self.metric),
        )  # fmt: skip

    def picture(self, series: Plane, columns: int, rows: int, grid: list[float]) -> Raster:
        """The characters of it."""
        assert isinstance(series, ChartSeries)
        return raster(series, columns, rows, grid=grid, cursor=self.view.cursor)

    # -- drawing

    def render_line(self, y: int) -> Strip:
        """One line of the chart, from strips that are drawn once for each change."""
        if self._strips is None:
            self._strips = self._draw()
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    @property
    def _rows(self) -> int:
        """How many characters high the curve's field is."""
        return self.size.height - self.labelled

    def _plan(self) -> tuple[Plane, Scale] | None:
        """What is drawn beside which scale, found out once for each change; None while there is nothing to draw."""
        if self._planned is None and self.size.width >= LEAST_WIDTH and self._rows > 0:
            series = self.series(max(1, self.size.width - 7) * DOTS_X, self.view.window(self.whole))
            self._planned = (series, y_scale(series, self._rows)) if series else None
        return self._planned

    def _draw(self) -> list[Strip]:
        width, height = self.size.width, self._rows
        if width < LEAST_WIDTH or height < 1:
            return []
        plan = self._plan()
        if plan is None:
            words = "the curve begins with the first step".center(width)[:width]
            style = self.rich_style + self.get_component_rich_style("chart--label")
            return [*[Strip.blank(width, self.rich_style)] * (height // 2), Strip([Segment(words, style)], width)]
        series, scale = plan
        others = [other[1] for chart in self.aligned if (other := chart._plan())]
        self._margin = max(each.width for each in (scale, *others)) + 1
        if width - self._margin < LEAST_COLUMNS:
            self._margin = 0  # the curve matters more than its labels
        columns = width - self._margin
        picture = self.picture(series, columns, height, scale.ticks)
        rows = {int(vertical_place(t, series.y_range, height, series.log)): n for t, n in zip(*scale, strict=True)}
        styles, label_style = self._layer_styles()
        strips = []
        for row in range(height):
            label = f"{rows.get(row, '').rjust(self._margin - 1)} " if self._margin else ""
            runs = [Segment(text, styles.get(layer, self.rich_style)) for text, layer in picture.runs(row)]
            strips.append(Strip([Segment(label, label_style), *runs], width))
        return [*strips, self._x_axis(series, columns, label_style)] if self.labelled else strips

    def _layer_styles(self) -> tuple[dict[int, Style], Style]:
        """Of each layer, and of the labels: looked up once for a theme."""
        if self._styles is None:
            base = self.rich_style
            layers = {layer: base + self.get_component_rich_style(name) for layer, name in self.LAYERS.items()}
            self._styles = layers, base + self.get_component_rich_style("chart--label")
        return self._styles

    def _x_axis(self, series: Plane, columns: int, style: Style) -> Strip:
        """The labels under the chart; none overlaps another, none is cut."""
        low, high = series.x_range
        most = max(1, columns // COLUMNS_A_TICK)
        if self.view.axis == "time":
            ticks = time_ticks(low, high, most)
            labels = time_labels(ticks)
        else:
            ticks = linear_ticks(low, high, most, least_step=1.0)
            labels = tick_labels(ticks)
        line = [" "] * (self._margin + columns)
        name = {"steps": "step", "tokens": "tok", "time": "time"}[self.view.axis]
        line[: len(name)] = name
        free = len(name) + 1
        for tick, label in zip(ticks, labels, strict=True):
            place = self._margin + int((tick - low) / (high - low) * columns)
            start = min(max(place - len(label) // 2, 0), len(line) - len(label))
            if start >= free:
                line[start : start + len(label)] = label
                free = start + len(label) + 1
        return Strip([Segment("".join(line)[: self.size.width], style)], self.size.width)

    # -- words on the border

    def _write_border(self) -> None:
        """Title and legend or readout; a chart without a lower border has all of it on the upper one."""
        name = title(self.history, self.metric, self.view)
        framed = self.styles.border_bottom[0] not in ("", "none")
        beside = 2 if framed else len(self.metric) + 6
        words = readout(self.history, self.metric, self.view, self.size.width - beside)
        if words and not framed:
            name = self.metric
        elif not words and self.metric == "loss":
            taken = beside if framed else Content.from_markup(name).cell_length + 6
            words = legend(self.history, self.size.width - taken)
        self.border_title = f"{name}  [$foreground 60%]{words}[/]" if words and not framed else name
        self.border_subtitle = words if framed else ""

    # -- the mouse

    def _x_at(self, column: int) -> float | None:
        window = self.view.window(self.whole)
        share = (column - self._margin + 0.5) / self.columns
        return window.low + share * window.span if 0 <= share <= 1 else None

    def _want(self, view: ChartView) -> None:
        self.post_message(self.ViewWanted(view))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The cursor follows the mouse; with the button held, the part that is shown does."""
        x = self._x_at(event.get_content_offset_capture(self).x)
        view = self.view
        if event.button and event.delta_x:
            view = view.panned(-event.delta_x / self.columns, self.whole)
        self._want(replace(view, cursor=x))

    def on_leave(self) -> None:
        """No readout without a mouse."""
        self._want(replace(self.view, cursor=None))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in around the mouse."""
        self._zoom(0.8, event)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out around the mouse."""
        self._zoom(1.25, event)

    def _zoom(self, factor: float, event: events.MouseEvent) -> None:
        event.stop()
        x = self._x_at(event.get_content_offset_capture(self).x)
        self._want(self.view.zoomed(factor, self.whole, x))
