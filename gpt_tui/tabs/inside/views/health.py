"""View Health: norm, gradient norm and size of the update of each tensor, and MLP units that never fire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_tui.charts.axes import y_axis
from gpt_tui.charts.raster import raster
from gpt_tui.charts.series import ChartSeries, Range
from gpt_tui.session.stats_history import HealthPoint
from gpt_tui.shared.formatting import fixed, integer, percent, significant
from gpt_tui.shared.spans import Line, Span, joined, shortened
from gpt_tui.tabs.inside.views.history import (
    StatsHistory,
    axis_row,
    columns_of,
    cursor_column,
    history,
    picture_rows,
    point_at,
    steps_range,
)
from gpt_tui.tabs.inside.views.view import Cursor, Frame, InsideView, Move, Task

USUAL_RATIO = -3.0
"""log10 of update over weights that is usual (Karpathy, makemore, part 3)."""
RATIO_RANGE = Range(-5.0, -1.0)  # of a sparkline, with the usual ratio in its middle
HIGH_RATIO, LOW_RATIO = -2.0, -4.0  # outside of which a ratio is worth a look
MANY_DEAD = 0.5
BARS = "▁▂▃▄▅▆▇█"
NUMBERS = 27  # cells of the three numbers of a row
MAX_NAME, MIN_SPARKLINE = 26, 8
LABEL = 7
ROWS_PER_CHART_ROW, MIN_CHART_ROWS, MAX_CHART_ROWS = 3, 4, 16


class HealthRow(NamedTuple):
    """A tensor, or the MLP units of a layer, over the history.

    Attributes:
        name: Name of the tensor, or of the units.
        norms: Norm at each point; NaN of units.
        grad_norms: Gradient norm at each point; NaN where unknown.
        values: What the sparkline shows at each point: log10 of update over weights, or the fraction of dead units.
        is_units: True for MLP units.
    """

    name: str
    norms: NDArray[np.float32]
    grad_norms: NDArray[np.float32]
    values: NDArray[np.float32]
    is_units: bool

    @property
    def value_range(self) -> Range:
        """Range of the sparkline."""
        return Range(0.0, 1.0) if self.is_units else RATIO_RANGE


class HealthView(InsideView[StatsHistory]):
    """A row per tensor, and a chart of the one at the cursor."""

    name = "health"
    title = "Health"
    needs_text = False

    def compute(self, task: Task) -> Iterator[StatsHistory]:
        """Yield the history of the weights."""
        yield history(task)

    def lines(self, result: StatsHistory, frame: Frame) -> Sequence[Line]:
        """Return the table around the cursor, the chart of its row, and what is seen there."""
        rows, cursor, (width, height) = health_rows(result.run.health), frame.cursor, frame.size
        here = min(cursor.tensor, len(rows) - 1)
        facts = fact_lines(result, rows[here], cursor, width)
        chart = chart_lines(result, rows[here], cursor, width, (height - 1 - len(facts)) // ROWS_PER_CHART_ROW)
        room = max(1, height - 1 - len(facts) - len(chart))
        first = max(0, min(here - room // 2, len(rows) - room))
        x_range, at = steps_range(result.run, result.run.health), selected(result, cursor)
        name_width = min(MAX_NAME, max(len(row.name) for row in rows) + 1)
        strip = max(0, width - name_width - NUMBERS)
        columns = columns_of(result.run.health, x_range, strip) if strip >= MIN_SPARKLINE else []
        table = [
            row_line(rows[number], cursor._replace(tensor=number), name_width, columns, at, is_here=number == here)
            for number in range(first, min(first + room, len(rows)))
        ]
        return [heading(name_width, strip), *table, *chart, *facts][:height]

    def reads_text(self, result: StatsHistory) -> bool:
        """Return True if the text was read, because no log has the numbers."""
        return result.is_measured

    def moved(self, result: StatsHistory, frame: Frame, move: Move) -> Cursor:
        """Return the cursor: left and right are evaluations, up and down tensors."""
        cursor, steps = frame.cursor, [point.place.step for point in result.run.health]
        count = len(health_rows(result.run.health))
        rows = {"up": -1, "down": 1, "page_up": -10, "page_down": 10}
        if move in rows:
            return cursor._replace(tensor=max(0, min(min(cursor.tensor, count - 1) + rows[move], count - 1)))
        by = {"left": -1, "right": 1, "home": -len(steps), "end": len(steps)}.get(move, 0)
        return cursor._replace(step=steps[max(0, min(selected(result, cursor) + by, len(steps) - 1))])


def health_rows(points: Sequence[HealthPoint]) -> list[HealthRow]:
    """Return the rows: the tensors in the order of the forward pass, and units after the tensors of their layer."""
    values = np.stack([point.values for point in points])  # (points, 3, tensors)
    rows: list[HealthRow] = []
    names = points[-1].tensors
    for number, (name, following) in enumerate(zip(names, [*names[1:], ""], strict=True)):
        norms, grad_norms, ratios = values[:, :, number].T
        rows.append(HealthRow(name, norms, grad_norms, ratios, False))
        module = name.rpartition(".")[0]
        if module.endswith(".mlp.c_fc") and module != following.rpartition(".")[0]:
            layer = int(name.split(".")[1])
            dead = np.array([point.dead_units[layer] for point in points], np.float32)
            unknown = np.full(len(points), np.nan, np.float32)
            rows.append(HealthRow(f"h.{layer}.mlp dead units", unknown, unknown, dead, True))
    return rows


def selected(result: StatsHistory, cursor: Cursor) -> int:
    """Return the number of the point at the cursor: that nearest to its step, or to the step of the model."""
    return point_at(result.run.health, result.step if cursor.step is None else cursor.step)


def heading(name_width: int, strip: int) -> Line:
    """Return the names of the columns; the middle of the sparklines is the usual size of an update."""
    title = f"{'tensor':<{name_width}}{'norm':>9}{'gradient':>9}{'update':>8} "
    notes = ("  log10 of update over weights from -5 to -1, usual -3 (▅)", "  log10, usual -3 (▅)", "")
    note = next(note for note in notes if len(note) <= max(0, strip))
    return [Span(title + note, style="muted")]


def row_line(
    row: HealthRow, target: Cursor, name_width: int, columns: Sequence[int], at: int, *, is_here: bool
) -> Line:  # fmt: skip
    """Return the row of a tensor: its name, its numbers at the cursor, and its sparkline."""
    value = float(row.values[at])
    numbers = f"{significant(row.norms[at]):>9}{significant(row.grad_norms[at]):>9}"
    spans = [
        Span(f"{shortened(row.name, name_width - 1):<{name_width}}", style="cursor" if is_here else "", at=target),
        Span(numbers, at=target),
        Span(f"{value_text(row, value):>8} ", style="bad" if is_unusual(row, value) else "bold", at=target),
    ]
    bars, marked = "".join(bar(row, point) for point in columns), cursor_column(columns, at)
    sparkline = [
        Span(bars[:marked], style="mark", at=target), Span(bars[marked : marked + 1], style="bold", at=target),
        Span(bars[marked + 1 :], style="mark", at=target),
    ]  # fmt: skip
    return [*spans, *(span for span in sparkline if span.text)]


def bar(row: HealthRow, point: int) -> str:
    """Return the bar of a point; a blank for one that is unknown."""
    if point < 0 or np.isnan(row.values[point]):
        return " "
    low, high = row.value_range
    level = (float(row.values[point]) - low) / (high - low)
    return BARS[max(0, min(int(level * len(BARS)), len(BARS) - 1))]


def is_unusual(row: HealthRow, value: float) -> bool:
    """Return True for an update ten times larger or smaller than usual, and for many dead units."""
    return value > MANY_DEAD if row.is_units else value > HIGH_RATIO or value < LOW_RATIO


def value_text(row: HealthRow, value: float) -> str:
    """Format log10 of an update over the weights, or a fraction of dead units."""
    if np.isnan(value):
        return "–"
    return percent(value) if row.is_units else fixed(value, 2)


def change_text(ratio: float) -> str:
    """Format an update over the weights as a percentage, below 1% with two significant digits."""
    if ratio < 10.0**LOW_RATIO:
        return f"{ratio:.1e}"
    return percent(ratio) if ratio >= 0.01 else f"{100 * ratio:.2g}%"


def chart_lines(result: StatsHistory, row: HealthRow, cursor: Cursor, width: int, height: int) -> list[Line]:
    """Return the chart of a row over the steps, with a line at the usual size of an update; [] without room."""
    points, rows = result.run.health, min(height, MAX_CHART_ROWS) - 1
    known = np.isfinite(row.values)
    if rows < MIN_CHART_ROWS - 1 or known.sum() < 2 or width < 4 * LABEL:
        return []
    x = np.array([point.place.step for point in points], np.float64)[known]
    values = row.values[known].astype(np.float64)
    low, high = (0.0, 1.0) if row.is_units else (min(-4.0, values.min()), max(-2.0, values.max()))
    x_range = steps_range(result.run, points)
    series = ChartSeries(x, values, values, values, (), x_range, Range(float(low), float(high)), False)
    axis, columns = y_axis(series, rows, percent=row.is_units), width - LABEL
    grid = [] if row.is_units else [USUAL_RATIO]
    picture = raster(series, columns, rows, grid=grid, cursor=float(points[selected(result, cursor)].place.step))
    labels = {int((high - tick) / (high - low) * rows): label for tick, label in zip(*axis, strict=True)}
    if not row.is_units:
        labels[int((high - USUAL_RATIO) / (high - low) * rows)] = f"{USUAL_RATIO:.0f}"
    drawn = [
        [Span(f"{labels.get(number, ''):>{LABEL - 1}} ", style="muted"), *line]
        for number, line in enumerate(picture_rows(picture))
    ]
    return [*drawn, [Span(" " * LABEL), *axis_row(x_range, columns)]]


def fact_lines(result: StatsHistory, row: HealthRow, cursor: Cursor, width: int) -> list[Line]:
    """Return what is seen at the cursor, in words."""
    at = selected(result, cursor)
    value = float(row.values[at])
    where = f"step {integer(result.run.health[at].place.step)}, {row.name}:"
    if row.is_units:
        parts = [f"{where} {percent(value)} never fire on the probe"]
    elif np.isnan(value):
        parts = [f"{where} norm {significant(row.norms[at])}", "update unknown"]
    else:
        size = change_text(10.0**value)
        parts = [f"{where} an update changes it by {size}", f"log10 {fixed(value, 2)}, usual -3"]
    lines: list[Line] = [[Span(line)] for line in joined(parts, width)]
    if result.is_measured:
        lines.append([Span("measured on these weights: there is no log of their updates", style="muted")])
    return lines
