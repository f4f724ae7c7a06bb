"""Raster of a chart: braille dots for curves, characters for marks. About 1 ms per chart; does not import Textual."""

from __future__ import annotations

import sys
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_tui.charts.series import MIN_LOG_VALUE, Array, ChartSeries, Mark, Plane, Range

DOTS_X, DOTS_Y = 2, 4  # dots per braille character
MARK_GAP = 4  # minimum columns between marks, so that the line between them remains visible

# bit of each dot (row, column) in the braille block, which begins at U+2800
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint32)

_UTF32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"

# layers, for the colours
EMPTY, GRID, RAW, SMOOTHED, CURSOR, EVAL, BEST, EVAL_LINE, READ = range(9)
GRID_CHARACTER, CURSOR_CHARACTER, READ_CHARACTER, EVAL_CHARACTER, BEST_CHARACTER = "┈", "│", "●", "◆", "★"
MAX_ROWS_OUTSIDE = 1e9  # positions are clipped to this distance from the plot area, so that they can be interpolated
MIN_THICK_ROWS = 8  # minimum height at which the smoothed line is two dots thick


class Raster(NamedTuple):
    """Drawn chart.

    Attributes:
        characters: Code points, (rows, columns).
        layers: Layer of each character, EMPTY to READ, (rows, columns).
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
    characters, layers = picture
    dots_wide, dots_high = columns * DOTS_X, rows * DOTS_Y
    centres: Array = series.x_range.low + (np.arange(dots_wide, dtype=np.float64) + 0.5) * (
        series.x_range.span / dots_wide
    )
    low, high, line = (
        interpolated(centres, series.x, row_of(values, series.y_range, dots_high, series.log))
        for values in (series.low, series.high, series.smoothed)
    )
    draw_dots(picture, RAW, joined(high, low, dots_high))
    if len(series.marks) > 1:
        draw_dots(picture, EVAL_LINE, _dotted(series, centres, dots_high))
    weight = line_weight(rows)
    draw_dots(picture, SMOOTHED, joined(line - weight, line + weight, dots_high))
    marks = spaced(series.marks, series.x_range.span / columns * MARK_GAP)
    positions = row_of(np.array([mark.y for mark in marks]), series.y_range, rows, series.log)
    positions = np.nan_to_num(np.clip(positions, -1, rows), nan=-1)
    for mark, row in zip(marks, positions.astype(int).tolist(), strict=True):
        column = column_of(mark.x, series.x_range, columns)
        if 0 <= row < rows:
            characters[row, column] = ord(BEST_CHARACTER if mark.best else EVAL_CHARACTER)
            layers[row, column] = BEST if mark.best else EVAL
    if cursor is not None:
        column = column_of(cursor, series.x_range, columns)
        position = line[column * DOTS_X]
        if isfinite(position) and 0 <= position < dots_high:
            characters[int(position) // DOTS_Y, column] = ord(READ_CHARACTER)
            layers[int(position) // DOTS_Y, column] = READ
    return picture


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


def spaced(marks: tuple[Mark, ...], gap: float) -> list[Mark]:
    """Return marks at least `gap` apart, selected from the last one backwards; the best one is always last."""
    selected: list[Mark] = []
    best = [mark for mark in marks if mark.best]
    for mark in reversed(marks):
        if not mark.best and all(other.x - mark.x >= gap for other in selected[-1:]):
            selected.append(mark)
    return selected + best


def joined(top: Array, bottom: Array, dots_high: int) -> NDArray[np.bool_]:
    """Return the dots of the band from `top` to `bottom`; each column extends half way to its neighbours.

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


def _dotted(series: ChartSeries, centres: Array, dots_high: int) -> NDArray[np.bool_]:
    """Return the dots of a dotted line through the evaluations."""
    x, y = np.array([(mark.x, mark.y) for mark in series.marks]).T
    line = interpolated(centres, x, row_of(y, series.y_range, dots_high, series.log))
    dots = joined(line, line, dots_high)
    dots[:, 1::2] = False
    return dots


def interpolated(centres: Array, x: Array, y: Array) -> Array:
    """Interpolate `y` over `x` at the centres of the dot columns; NaN left of the first point and right of the last."""
    known = np.isfinite(y)
    if not known.any():
        return np.full(len(centres), np.nan)
    x, y = x[known], y[known]
    half = (centres[1] - centres[0]) if len(centres) > 1 else np.inf
    outside = (centres < x[0] - half) | (centres > x[-1] + half)
    values: Array = np.interp(centres, x, y)
    values[outside] = np.nan
    return values


def draw_dots(picture: Raster, layer: int, dots: NDArray[np.bool_]) -> None:
    """Write dots (rows * DOTS_Y, columns * DOTS_X) as braille; characters without a dot remain unchanged."""
    rows, columns = picture.characters.shape
    cells = dots.reshape(rows, DOTS_Y, columns, DOTS_X)
    codes = np.einsum("rycx,yx->rc", cells, _BITS)
    drawn = codes > 0
    picture.characters[drawn] = codes[drawn] + 0x2800
    picture.layers[drawn] = layer
