"""Several runs laid over each other in one chart: their lines on shared axes, and the characters of these. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from gpt_core.training.losses import perplexity
from gpt_tui.charts.raster import (
    DOTS_X,
    DOTS_Y,
    EVAL_CHARACTER,
    MARK_GAP,
    Raster,
    draw_dots,
    empty_raster,
    horizontal,
    joined,
    line_weight,
    read_at,
    spaced,
    vertical,
)  # fmt: skip
from gpt_tui.charts.series import (
    AXIS_COLUMN,
    Array,
    Axis,
    Mark,
    Range,
    axis_value,
    clipped,
    fitted_range,
    nearest_row,
    perplexities,
    thinned,
    whole_range,
)  # fmt: skip
from gpt_tui.session.curve import HIGH, LOW, SMOOTHED
from gpt_tui.session.run_state import RunState

Quantity = Literal["loss", "perplexity", "bits per byte"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
MOST_LAID_OVER = 8
FIRST_RUN_LAYER = 16  # the layer of run 1; below are those of `chart_raster`
COLUMNS_A_NUMBER = 30  # between two numbers on the same line


class NamedRun(NamedTuple):
    """A run that is laid over others: its number, from 1 on, and its name."""

    number: int
    name: str
    history: RunState


class Line(NamedTuple):
    """One run's line: `y` over `x` (n,), both in their own units; its points are marked where they are few."""

    number: int
    x: Array
    y: Array
    marked: bool = False


@dataclass(frozen=True, slots=True)
class OverlaySeries:
    """What the chart draws; with `log` the y values are to be placed by their logarithm."""

    lines: tuple[Line, ...]
    x_range: Range
    y_range: Range
    log: bool


def whole_of(runs: Sequence[NamedRun], axis: Axis) -> Range:
    """The part of the x axis that the runs have covered together, never empty."""
    ranges = [whole_range(run.history, axis) for run in runs if len(run.history.curve.recent)]
    if not ranges:
        return Range(0.0, 1.0)
    return Range(min(part.low for part in ranges), max(part.high for part in ranges))


def overlay_series(
    runs: Sequence[NamedRun],
    quantity: Quantity,
    axis: Axis,
    *,
    columns: int,
    log: bool,
    window: Range,
    close: bool = True,
) -> OverlaySeries | None:
    """The runs' lines in `window`, thinned to `columns` dot columns; None where no run has a point there.

    On a linear scale the y range is a `close`-up, if it may be: where runs differ is at their ends, not in the first
    fall.
    """
    lines = [line_of(run, quantity, axis, columns=columns, window=window) for run in runs]
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return None
    robust = close and quantity != "bits per byte" and not log
    ranges = [fitted_range(line.y, line.y, line.y, [], robust=robust, log=log) for line in lines]
    y_range = Range(min(part.low for part in ranges), max(part.high for part in ranges))
    return OverlaySeries(tuple(lines), window, y_range, log)


def line_of(run: NamedRun, quantity: Quantity, axis: Axis, *, columns: int, window: Range) -> Line:
    """The smoothed loss or its exponential; of bits per byte the evaluations, which alone are known in that unit."""
    if quantity == "bits per byte":
        points = run.history.evaluations
        x = np.array([axis_value(point, axis) for point in points])
        part = seen_part(x, window)
        y = clipped(np.array([point.bits_per_byte for point in points[part]]))
        return Line(run.number, x[part], y, marked=True)
    rows, column = run.history.curve.rows(), AXIS_COLUMN[axis]
    rows = rows[seen_part(rows[:, column], window)]
    if not len(rows):
        return Line(run.number, np.empty(0), np.empty(0))
    x, _, _, y = thinned(
        rows[:, column], rows[:, LOW], rows[:, HIGH], rows[:, SMOOTHED], x_range=window, columns=columns
    )
    return Line(run.number, x, perplexities(y) if quantity == "perplexity" else y)


def seen_part(x: Array, window: Range) -> slice:
    """The points (n,) in the window, and one on either side, so that lines reach its edges."""
    first = max(0, int(np.searchsorted(x, window.low)) - 1)
    return slice(first, int(np.searchsorted(x, window.high, side="right")) + 1)


def value_at(run: NamedRun, quantity: Quantity, axis: Axis, x: float | None) -> float | None:
    """What the run's line says at `x`, at its end if None; None where the run has no point."""
    history = run.history
    whole = whole_range(history, axis)
    if not len(history.curve.recent) or (x is not None and not whole.low <= x <= whole.high):
        return None
    at = whole.high if x is None else x
    if quantity == "bits per byte":
        points = [point for point in history.evaluations if axis_value(point, axis) <= at]
        return points[-1].bits_per_byte if points else None
    row = nearest_row(history, axis, at)
    smoothed = row[SMOOTHED] if row else None
    return perplexity(smoothed) if smoothed is not None and quantity == "perplexity" else smoothed


def overlay_raster(
    series: OverlaySeries, columns: int, rows: int, *, grid: list[float], cursor: float | None = None
) -> Raster:
    """Draws the lines into `rows` x `columns` characters, each with its number on it: at its end, and here and there.

    A line's layer is FIRST_RUN_LAYER - 1 + its number.
    """
    picture = empty_raster(series, columns, rows, grid=grid, cursor=cursor)
    dots_wide, dots_high = columns * DOTS_X, rows * DOTS_Y
    centres: Array = series.x_range.low + (np.arange(dots_wide, dtype=np.float64) + 0.5) * (
        series.x_range.span / dots_wide
    )
    places: list[Array] = []
    weight = line_weight(rows)
    for line in series.lines:
        height = read_at(centres, line.x, vertical(line.y, series.y_range, dots_high, series.log))
        draw_dots(picture, FIRST_RUN_LAYER - 1 + line.number, joined(height - weight, height + weight, dots_high))
        if line.marked:
            _mark_points(picture, series, line)
        places.append(height[::DOTS_X] / DOTS_Y)
    _write_numbers(picture, series, places, columns, rows)
    return picture


def _mark_points(picture: Raster, series: OverlaySeries, line: Line) -> None:
    rows, columns = picture.characters.shape
    marks = tuple(Mark(float(x), float(y), False) for x, y in zip(line.x, line.y, strict=True))
    for mark in spaced(marks, series.x_range.span / columns * MARK_GAP):
        place = float(vertical(mark.y, series.y_range, rows, series.log))
        if 0 <= place < rows and series.x_range.low <= mark.x <= series.x_range.high:
            column = horizontal(mark.x, series.x_range, columns)
            picture.characters[int(place), column] = ord(EVAL_CHARACTER)
            picture.layers[int(place), column] = FIRST_RUN_LAYER - 1 + line.number


def _write_numbers(picture: Raster, series: OverlaySeries, places: list[Array], columns: int, rows: int) -> None:
    """At each line's end first, then along the lines; none stands where, or right beside where, another one does."""
    taken = np.zeros((rows, columns + 2), dtype=bool)  # a column more on either side
    known = [np.flatnonzero(np.isfinite(row) & (row >= 0) & (row < rows)) for row in places]
    wanted = [(index, int(at[-1])) for index, at in enumerate(known) if len(at)]
    repeats = columns // COLUMNS_A_NUMBER
    for repeat in range(repeats):
        for index, at in enumerate(known):
            column = int((repeat + (index + 0.5) / len(known)) * columns / repeats)
            if column in at:
                wanted.append((index, column))
    for index, column in wanted:
        number = series.lines[index].number
        for place in known[index][known[index] <= column][::-1].tolist():
            row = int(places[index][place])
            if not taken[row, place : place + 3].any():
                picture.characters[row, place] = ord(str(number))
                picture.layers[row, place] = FIRST_RUN_LAYER - 1 + number
                taken[row, place + 1] = True
                break
