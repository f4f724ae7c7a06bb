"""Raster of a chart: braille dots for curves, characters for marks. About 1 ms per chart; does not import Textual."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_tui.charts.series import MIN_LOG_VALUE, Array, ChartSeries, Mark, Plane, Range

DOTS_X, DOTS_Y = 2, 4  # dots per braille character
POINT_GAP = 2  # minimum columns between the points of a line, so that the line between them remains visible
POINT = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # dots of a point, as offsets of row and column
MIN_SIGN_ROWS = 3  # minimum height of a plot area that has signs at its top edge
SIGN_GAP = 2  # columns per sign at the top edge, where values are above the range

# bit of each dot (row, column) in the braille block, which begins at U+2800
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint32)

_UTF32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"

# layers, for the colors
EMPTY, GRID, RAW, SMOOTHED, CURSOR, EVAL, BEST, EVAL_LINE, READ, INDUCTION, BASELINE = range(11)
GRID_CHARACTER, CURSOR_CHARACTER, READ_CHARACTER, EVAL_CHARACTER, BEST_CHARACTER = "┈", "│", "●", "◆", "★"
INDUCTION_CHARACTER = "┊"
ABOVE_CHARACTER = "▲"  # at the top edge: a value above the range
MAX_ROWS_OUTSIDE = 1e9  # positions are clipped to this distance from the plot area, so that they can be interpolated
MIN_THICK_ROWS = 8  # minimum height at which the smoothed line is two dots thick


class Raster(NamedTuple):
    """Drawn chart.

    Attributes:
        characters: Code points, (rows, columns).
        layers: Layer of each character, EMPTY to BASELINE, (rows, columns).
    """

    characters: NDArray[np.uint32]
    layers: NDArray[np.uint8]

    def runs(self, row: int) -> list[tuple[str, int]]:
        """Return a row as (text, layer) pairs, one per run of equal layers."""
        layers = self.layers[row]
        starts = np.flatnonzero(np.diff(layers, prepend=-1)).tolist()
        text = self.characters[row].tobytes().decode(_UTF32)
        return [
            (text[start:stop], int(layers[start])) for start, stop in zip(starts, [*starts[1:], len(text)], strict=True)
        ]


def row_of(y: Array | float, y_range: Range, rows: int, log: bool) -> Array:
    """Return the row of `y` in a plot area `rows` high, 0 at the top; NaN where `y` is NaN."""
    if log:
        low, high = np.log(y_range.low), np.log(y_range.high)
        y = np.log(np.maximum(y, MIN_LOG_VALUE))
    else:
        low, high = np.float64(y_range.low), np.float64(y_range.high)
    with np.errstate(over="ignore", invalid="ignore"):
        position: Array = (high - y) / (high - low) * rows
    return np.clip(np.asarray(position), -MAX_ROWS_OUTSIDE, MAX_ROWS_OUTSIDE)


def column_of(x: float, x_range: Range, columns: int) -> int:
    """Return the column of `x` in a plot area `columns` wide."""
    return min(columns - 1, max(0, int((x - x_range.low) / x_range.span * columns)))


def raster(
    series: ChartSeries, columns: int, rows: int, *, grid: list[float] | None = None, cursor: float | None = None
) -> Raster:
    """Draw the series.

    Args:
        series: Data of the chart.
        columns: Width in cells.
        rows: Height in cells.
        grid: y values of the grid lines.
        cursor: x value of the cursor.
    """
    picture = empty_raster(series, columns, rows, grid=grid, cursor=cursor)
    if series.induction_x is not None:
        _write_line(picture, INDUCTION, column_of(series.induction_x, series.x_range, columns))
    dots_high = rows * DOTS_Y
    centers = dot_centers(series.x_range, columns)
    low, high, line = (
        interpolated(centers, series.x, row_of(values, series.y_range, dots_high, series.log))
        for values in (series.low, series.high, series.smoothed)
    )
    draw_dots(picture, RAW, joined(high, low, dots_high))
    between = _dotted(series, centers, dots_high)
    draw_dots(picture, EVAL_LINE, between)
    weight = line_weight(rows)
    draw_dots(picture, SMOOTHED, joined(line - weight, line + weight, dots_high))
    points = point_dots(series, series.marks, columns, rows)
    best = point_dots(series, [mark for mark in series.marks if mark.best], columns, rows)
    draw_dots(picture, EVAL, points | best | between, where=points)
    draw_dots(picture, BEST, points | best | between, where=best)
    read = mark_at(series.marks, cursor)
    if read is None or not read.best:  # else the cursor writes the sign at the point itself
        _write_best(picture, best)
    if rows >= MIN_SIGN_ROWS:
        evaluated = interpolated(centers, *_mark_places(series, dots_high))
        for layer, position in ((RAW, high), (SMOOTHED, line), (EVAL, evaluated)):
            write_signs(picture, layer, position)
    if cursor is not None:
        _write_cursor(picture, series, line, cursor)
    return picture


def dot_centers(x_range: Range, columns: int) -> Array:
    """Return the x value at the center of each dot column."""
    width = x_range.span / (columns * DOTS_X)
    centers: Array = x_range.low + (np.arange(columns * DOTS_X, dtype=np.float64) + 0.5) * width
    return centers


def point_dots(plane: Plane, marks: Sequence[Mark], columns: int, rows: int) -> NDArray[np.bool_]:
    """Return the dots of the points at marks, without those that are too close to a later one.

    Shape:
        Returns (rows * DOTS_Y, columns * DOTS_X).
    """
    dots = np.zeros((rows * DOTS_Y, columns * DOTS_X), dtype=bool)
    for mark in spaced(marks, plane.x_range.span / columns * POINT_GAP):
        position = float(row_of(mark.y, plane.y_range, len(dots), plane.log))
        if not 0 <= position < len(dots) or not plane.x_range.low <= mark.x <= plane.x_range.high:
            continue
        row, column = int(position), column_of(mark.x, plane.x_range, columns * DOTS_X)
        for down, right in POINT:
            if 0 <= row + down < len(dots) and 0 <= column + right < columns * DOTS_X:
                dots[row + down, column + right] = True
    return dots


def _write_line(picture: Raster, layer: int, column: int) -> None:
    """Write a vertical line, unless the cursor is in its column."""
    free = picture.layers[:, column] != CURSOR
    picture.characters[free, column], picture.layers[free, column] = ord(INDUCTION_CHARACTER), layer


def write_signs(picture: Raster, layer: int, position: Array) -> None:
    """Write a sign into the first row where a line is above it.

    Args:
        picture: The chart.
        layer: Layer of the line.
        position: Row of the line in dots, at each dot column. Shape: (columns * DOTS_X,).
    """
    above = np.min(np.nan_to_num(position, nan=0.0).reshape(-1, DOTS_X), axis=1) < 0
    starts = np.flatnonzero(above & ~np.append(False, above[:-1]))
    for start in starts.tolist():
        length = int(np.argmin(np.append(above[start:], False)))
        picture.characters[0, start : start + length : SIGN_GAP] = ord(ABOVE_CHARACTER)
        picture.layers[0, start : start + length : SIGN_GAP] = layer


def _write_best(picture: Raster, dots: NDArray[np.bool_]) -> None:
    """Write the sign of the best evaluation above its point, or below it at the top edge."""
    rows, columns = np.nonzero(dots)
    if not len(rows):
        return
    column, row = int(columns[rows == rows.min()][0]) // DOTS_X, int(rows.min()) // DOTS_Y - 1
    if row < 0:
        row = int(rows.max()) // DOTS_Y + 1
    if row < len(picture.characters):
        picture.characters[row, column], picture.layers[row, column] = ord(BEST_CHARACTER), BEST


def _write_cursor(picture: Raster, series: ChartSeries, line: Array, cursor: float) -> None:
    """Mark what is read at the cursor: the line, and the nearest evaluation."""
    rows, columns = picture.characters.shape
    column = column_of(cursor, series.x_range, columns)
    position = line[column * DOTS_X]
    if isfinite(position) and 0 <= position < rows * DOTS_Y:
        row = int(position) // DOTS_Y
        picture.characters[row, column], picture.layers[row, column] = ord(READ_CHARACTER), READ
    write_mark(picture, series, series.marks, cursor)


def mark_at(marks: Sequence[Mark], cursor: float | None) -> Mark | None:
    """Return the mark that is read at the cursor: the nearest one; None without a cursor or a mark."""
    return None if cursor is None else min(marks, key=lambda mark: abs(mark.x - cursor), default=None)


def write_mark(
    picture: Raster, plane: Plane, marks: Sequence[Mark], cursor: float, layers: tuple[int, int] = (EVAL, BEST)
) -> None:
    """Write a character at the evaluation nearest to the cursor, in the first layer or, if it is the best, the second.

    Args:
        picture: The chart.
        plane: Its coordinate system.
        marks: The visible evaluations.
        cursor: x value of the cursor.
        layers: Layers of the character.
    """
    rows, columns = picture.characters.shape
    mark = mark_at(marks, cursor)
    if mark is None:
        return
    row, column = float(row_of(mark.y, plane.y_range, rows, plane.log)), column_of(mark.x, plane.x_range, columns)
    if 0 <= row < rows:
        picture.characters[int(row), column] = ord(BEST_CHARACTER if mark.best else EVAL_CHARACTER)
        picture.layers[int(row), column] = layers[mark.best]


def line_weight(rows: int) -> float:
    """Return half of a line's thickness, in dots."""
    return 0.5 if rows >= MIN_THICK_ROWS else 0.0


def empty_raster(plane: Plane, columns: int, rows: int, *, grid: list[float] | None, cursor: float | None) -> Raster:
    """Draw only the grid and the cursor."""
    characters = np.full((rows, columns), ord(" "), dtype=np.uint32)
    layers = np.zeros((rows, columns), dtype=np.uint8)
    for y in grid or []:
        row = int(row_of(y, plane.y_range, rows, plane.log))
        if 0 <= row < rows:
            characters[row, :] = ord(GRID_CHARACTER)
            layers[row, :] = GRID
    if cursor is not None:
        column = column_of(cursor, plane.x_range, columns)
        characters[:, column] = ord(CURSOR_CHARACTER)
        layers[:, column] = CURSOR
    return Raster(characters, layers)


def spaced(marks: Sequence[Mark], gap: float) -> list[Mark]:
    """Return marks at least `gap` apart, selected from the last one backwards; the best one is always last."""
    selected: list[Mark] = []
    best = [mark for mark in marks if mark.best]
    for mark in reversed(marks):
        if not mark.best and all(other.x - mark.x >= gap for other in selected[-1:]):
            selected.append(mark)
    return selected + best


def joined(top: Array, bottom: Array, dots_high: int) -> NDArray[np.bool_]:
    """Return the dots of the band from `top` to `bottom`; each column extends half way to its neighbors.

    Shape:
        top, bottom: (n,). Returns (dots_high, n).
    """
    with np.errstate(invalid="ignore"):
        halfway_top = (top[:-1] + top[1:]) / 2
        halfway_bottom = (bottom[:-1] + bottom[1:]) / 2
        upper, lower = top.copy(), bottom.copy()
        upper[:-1], lower[:-1] = np.fmin(upper[:-1], halfway_top), np.fmax(lower[:-1], halfway_bottom)
        upper[1:], lower[1:] = np.fmin(upper[1:], halfway_top), np.fmax(lower[1:], halfway_bottom)
        dots = np.arange(dots_high)[:, None]
        return (dots >= np.floor(upper)) & (dots <= np.floor(lower))


def _dotted(series: ChartSeries, centers: Array, dots_high: int) -> NDArray[np.bool_]:
    """Return the dots of a dotted line through the evaluations."""
    if len(series.marks) < 2:
        return np.zeros((dots_high, len(centers)), dtype=bool)
    line = interpolated(centers, *_mark_places(series, dots_high))
    dots = joined(line, line, dots_high)
    dots[:, 1::2] = False
    return dots


def _mark_places(series: ChartSeries, dots_high: int) -> tuple[Array, Array]:
    """Return x value and row in dots of each evaluation."""
    x, y = (np.array(values) for values in ([mark.x for mark in series.marks], [mark.y for mark in series.marks]))
    return x, row_of(y, series.y_range, dots_high, series.log)


def interpolated(centers: Array, x: Array, y: Array) -> Array:
    """Interpolate `y` over `x` at the centers of the dot columns; NaN left of the first point and right of the last."""
    known = np.isfinite(y)
    if not known.any():
        return np.full(len(centers), np.nan)
    x, y = x[known], y[known]
    half = (centers[1] - centers[0]) if len(centers) > 1 else np.inf
    outside = (centers < x[0] - half) | (centers > x[-1] + half)
    values: Array = np.interp(centers, x, y)
    values[outside] = np.nan
    return values


def draw_dots(picture: Raster, layer: int, dots: NDArray[np.bool_], *, where: NDArray[np.bool_] | None = None) -> None:
    """Write dots as braille; characters without a dot remain unchanged.

    Args:
        picture: The chart.
        layer: Layer of the characters.
        dots: The dots, (rows * DOTS_Y, columns * DOTS_X).
        where: Only characters that hold one of these dots are written, None for all.
    """
    rows, columns = picture.characters.shape
    cells = dots.reshape(rows, DOTS_Y, columns, DOTS_X)
    codes = np.einsum("rycx,yx->rc", cells, _BITS)
    drawn = codes > 0
    if where is not None:
        drawn &= where.reshape(cells.shape).any(axis=(1, 3))
    picture.characters[drawn] = codes[drawn] + 0x2800
    picture.layers[drawn] = layer
