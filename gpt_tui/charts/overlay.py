"""Comparison of several runs in one chart: data and raster, with a line per run. Does not import Textual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpt_core.training.events import EvalCompleted
from gpt_core.training.metrics import Metric, added_metrics
from gpt_core.training.metrics import metric as registered
from gpt_tui.charts.raster import (
    DOTS_X,
    DOTS_Y,
    MIN_SIGN_ROWS,
    Raster,
    dot_centers,
    draw_dots,
    empty_raster,
    interpolated,
    joined,
    line_weight,
    point_dots,
    row_of,
    write_mark,
    write_signs,
)  # fmt: skip
from gpt_tui.charts.series import (
    AXIS_COLUMN,
    Array,
    Axis,
    Mark,
    Range,
    axis_value,
    clipped,
    curve_of,
    fitted_range,
    full_range,
    is_averaged,
    is_evaluated,
    max_above,
    nearest_point,
    thinned,
    transformed,
    visible,
    visible_part,
)  # fmt: skip
from gpt_tui.session.curve import HIGH, LOW, SMOOTHED
from gpt_tui.session.run_state import RunState

MAX_RUNS = 8
FIRST_RUN_LAYER = 16  # layer of run 1; the layers of `gpt_tui.charts.raster` are below
COMPARED = (
    "train_loss", "perplexity", "bits_per_byte", "eval_loss", "accuracy", "learning_rate", "grad_norm", "throughput",
)  # fmt: skip
COLUMNS_PER_NUMBER = 30  # distance between numbers on the same line


class NamedRun(NamedTuple):
    """Run in a comparison.

    Attributes:
        number: Number of the run, from 1.
        name: Name in the legend.
        state: State of the run.
    """

    number: int
    name: str
    state: RunState


class Line(NamedTuple):
    """Line of a run.

    Attributes:
        number: Number of the run.
        x: x values, (n,).
        y: y values, (n,).
        marked: Each point has a mark, as the points are few.
    """

    number: int
    x: Array
    y: Array
    marked: bool = False


@dataclass(frozen=True, slots=True)
class OverlaySeries:
    """Data of a comparison chart: lines, visible ranges, and whether the y axis is logarithmic."""

    lines: tuple[Line, ...]
    x_range: Range
    y_range: Range
    log: bool

    @property
    def max_above(self) -> float | None:
        """Largest visible value above the y range, None if all values are in it."""
        return max_above([line.y[visible(line.x, self.x_range)] for line in self.lines], self.y_range)


def combined_range(runs: Sequence[NamedRun], axis: Axis) -> Range:
    """Return the x range that covers all runs; never empty."""
    ranges = [full_range(run.state, axis) for run in runs if len(run.state.curve.recent)]
    if not ranges:
        return Range(0.0, 1.0)
    return Range(min(part.low for part in ranges), max(part.high for part in ranges))


def overlay_series(
    runs: Sequence[NamedRun],
    name: str,
    axis: Axis,
    *,
    columns: int,
    log: bool,
    window: Range,
    tight: bool = True,
) -> OverlaySeries | None:
    """Return the data of a comparison chart; None if no run has a point in `window`.

    Args:
        runs: Runs to compare.
        name: Metric on the y axis.
        axis: Quantity on the x axis.
        columns: Width in dot columns.
        log: The y axis is logarithmic.
        window: Visible x range.
        tight: On a linear scale, the y range cuts off the initial decrease, as runs differ at their ends.
    """
    lines = [line_of(run, registered(name), axis, columns=columns, window=window) for run in runs]
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return None
    tight = tight and registered(name).smoothed and not log
    ranges = [fitted_range(line.y, line.y, line.y, [], tight=tight, log=log) for line in lines]
    y_range = Range(min(part.low for part in ranges), max(part.high for part in ranges))
    return OverlaySeries(tuple(lines), window, y_range, log)


def compared_metrics() -> tuple[str, ...]:
    """Return the names of the metrics in which runs can be compared."""
    return (*COMPARED, *(metric.name for metric in added_metrics()))


def line_of(run: NamedRun, metric: Metric, axis: Axis, *, columns: int, window: Range) -> Line:
    """Return a run's line: the moving average of an averaged metric, else the values."""
    if is_evaluated(metric):
        points = run.state.evaluations
        x = np.array([axis_value(point, axis) for point in points])
        part = visible_part(x, window)
        return Line(run.number, x[part], clipped(np.array([metric.read(point) for point in points[part]])), marked=True)
    rows, column = curve_of(run.state, metric).rows(), AXIS_COLUMN[axis]
    rows = rows[visible_part(rows[:, column], window)]
    if not len(rows):
        return Line(run.number, np.empty(0), np.empty(0))
    x, _, high, smoothed = thinned(
        rows[:, column], rows[:, LOW], rows[:, HIGH], rows[:, SMOOTHED], x_range=window, columns=columns
    )
    y = clipped(transformed(metric, smoothed if is_averaged(metric) else high))
    return Line(run.number, x, y, marked=metric.event is EvalCompleted)


def value_at(run: NamedRun, name: str, axis: Axis, x: float | None) -> float | None:
    """Return the value of a run's line at `x` (None: at its end); None if the run has no point there."""
    state, metric = run.state, registered(name)
    full = full_range(state, axis)
    if not len(state.curve.recent) or (x is not None and not full.low <= x <= full.high):
        return None
    at = full.high if x is None else x
    if is_evaluated(metric):
        points = [point for point in state.evaluations if axis_value(point, axis) <= at]
        return metric.read(points[-1]) if points else None
    row = nearest_point(curve_of(state, metric), axis, at)
    if row is None:
        return None
    value = row[SMOOTHED if is_averaged(metric) else HIGH]
    return metric.transform(value) if metric.transform else value


def overlay_raster(
    series: OverlaySeries, columns: int, rows: int, *, grid: list[float], cursor: float | None = None
) -> Raster:
    """Draw the lines, each with its number at its end and at intervals.

    The layer of a line is FIRST_RUN_LAYER - 1 + its number.
    """
    picture = empty_raster(series, columns, rows, grid=grid, cursor=cursor)
    dots_high = rows * DOTS_Y
    centers = dot_centers(series.x_range, columns)
    heights: list[Array] = []
    weight = line_weight(rows)
    for line in series.lines:
        layer, marks = FIRST_RUN_LAYER - 1 + line.number, marks_of(line, series.x_range)
        height = interpolated(centers, line.x, row_of(line.y, series.y_range, dots_high, series.log))
        thickness = 0.0 if line.marked else weight  # a thin line, on which the points are seen
        dots = joined(height - thickness, height + thickness, dots_high)
        draw_dots(picture, layer, dots | point_dots(series, marks, columns, rows))
        if rows >= MIN_SIGN_ROWS:
            write_signs(picture, layer, height)
        if cursor is not None:
            write_mark(picture, series, marks, cursor, (layer, layer))
        heights.append(height[::DOTS_X] / DOTS_Y)
    _write_numbers(picture, series, heights, columns, rows)
    return picture


def marks_of(line: Line, x_range: Range) -> list[Mark]:
    """Return the points of a line that has marks, in an x range."""
    points = zip(line.x.tolist(), line.y.tolist(), strict=True) if line.marked else ()
    return [Mark(x, y, False) for x, y in points if x_range.low <= x <= x_range.high]


def _write_numbers(picture: Raster, series: OverlaySeries, heights: list[Array], columns: int, rows: int) -> None:
    """Write the numbers at the ends of the lines, then along them; numbers do not touch each other."""
    taken = np.zeros((rows, columns + 2), dtype=bool)  # one more column on each side
    known = [np.flatnonzero(np.isfinite(height) & (height >= 0) & (height < rows)) for height in heights]
    wanted = [(index, int(at[-1])) for index, at in enumerate(known) if len(at)]
    repeats = columns // COLUMNS_PER_NUMBER
    for repeat in range(repeats):
        for index, at in enumerate(known):
            column = int((repeat + (index + 0.5) / len(known)) * columns / repeats)
            if column in at:
                wanted.append((index, column))
    for index, last in wanted:
        number = series.lines[index].number
        for column in known[index][known[index] <= last][::-1].tolist():
            row = int(heights[index][column])
            if not taken[row, column : column + 3].any():
                picture.characters[row, column] = ord(str(number))
                picture.layers[row, column] = FIRST_RUN_LAYER - 1 + number
                taken[row, column + 1] = True
                break
