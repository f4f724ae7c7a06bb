"""A chart as characters: braille dots for the curves, whole characters for the marks. Pure, about 1 ms a chart."""

from __future__ import annotations

import sys
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_tui.charts.series import TINY, Array, ChartSeries, Mark, Plane, Range

DOTS_X, DOTS_Y = 2, 4  # dots of one braille character
MARK_GAP = 4  # columns from one mark to the next, so that the line between them is seen

# bit of each dot (row, column) in the braille block that begins at U+2800
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint32)

_UTF32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"

EMPTY, GRID, RAW, SMOOTHED, CURSOR, EVAL, BEST, EVAL_LINE, READ = range(9)
GRID_CHARACTER, CURSOR_CHARACTER, READ_CHARACTER, EVAL_CHARACTER, BEST_CHARACTER = "┈", "│", "●", "◆", "★"
FAR_OUTSIDE = 1e9  # rows from the field at which places end, so that those between two of them can be computed
THICK_ROWS = 8  # from so many rows on the smoothed line is two dots thick


class Raster(NamedTuple):
    """Characters (rows, columns) as code points, and what each one belongs to, for its colour: EMPTY ... READ."""

    characters: NDArray[np.uint32]
    layers: NDArray[np.uint8]

    def runs(self, row: int) -> list[tuple[str, int]]:
        """One row as (text, layer) pairs, as few as there are changes of layer."""
        layers = self.layers[row]
        starts = np.flatnonzero(np.diff(layers, prepend=-1)).tolist()
        text = self.characters[row].tobytes().decode(_UTF32)
        return [
            (text[start:stop], int(layers[start])) for start, stop in zip(starts, [*starts[1:], len(text)], strict=True)
        ]


def vertical(y: Array | float, y_range: Range, rows: int, log: bool) -> Array:
    """Where `y` lies, in rows of a field `rows` high, 0 at the top; NaN where it is NaN."""
    if log:
        low, high = np.log(y_range.low), np.log(y_range.high)
        y = np.log(np.maximum(y, TINY))
    else:
        low, high = np.float64(y_range.low), np.float64(y_range.high)
    with np.errstate(over="ignore", invalid="ignore"):
        position: Array = (high - y) / (high - low) * rows
    return np.clip(np.asarray(position), -FAR_OUTSIDE, FAR_OUTSIDE)


def horizontal(x: float, x_range: Range, columns: int) -> int:
    """The column of `x` in a field `columns` wide."""
    return min(columns - 1, max(0, int((x - x_range.low) / x_range.span * columns)))


def raster(
    series: ChartSeries, columns: int, rows: int, *, grid: list[float] | None = None, cursor: float | None = None
) -> Raster:
    """Draws the series into `rows` x `columns` characters; `grid` are y values of lines, `cursor` an x value."""
    picture = empty_raster(series, columns, rows, grid=grid, cursor=cursor)
    characters, layers = picture
    dots_wide, dots_high = columns * DOTS_X, rows * DOTS_Y
    centres: Array = series.x_range.low + (np.arange(dots_wide, dtype=np.float64) + 0.5) * (
        series.x_range.span / dots_wide
    )
    low, high, line = (
        read_at(centres, series.x, vertical(values, series.y_range, dots_high, series.log))
        for values in (series.low, series.high, series.smoothed)
    )
    draw_dots(picture, RAW, joined(high, low, dots_high))
    if len(series.marks) > 1:
        draw_dots(picture, EVAL_LINE, _dotted(series, centres, dots_high))
    weight = line_weight(rows)
    draw_dots(picture, SMOOTHED, joined(line - weight, line + weight, dots_high))
    marks = spaced(series.marks, series.x_range.span / columns * MARK_GAP)
    places = vertical(np.array([mark.y for mark in marks]), series.y_range, rows, series.log)
    places = np.nan_to_num(np.clip(places, -1, rows), nan=-1)
    for mark, row in zip(marks, places.astype(int).tolist(), strict=True):
        column = horizontal(mark.x, series.x_range, columns)
        if 0 <= row < rows:
            characters[row, column] = ord(BEST_CHARACTER if mark.best else EVAL_CHARACTER)
            layers[row, column] = BEST if mark.best else EVAL
    if cursor is not None:
        column = horizontal(cursor, series.x_range, columns)
        place = line[column * DOTS_X]
        if isfinite(place) and 0 <= place < dots_high:
            characters[int(place) // DOTS_Y, column] = ord(READ_CHARACTER)
            layers[int(place) // DOTS_Y, column] = READ
    return picture


def line_weight(rows: int) -> float:
    """By how many dots a line goes beyond its place, up and down."""
    return 0.5 if rows >= THICK_ROWS else 0.0


def empty_raster(plane: Plane, columns: int, rows: int, *, grid: list[float] | None, cursor: float | None) -> Raster:
    """Nothing but the lines of the grid and the cursor."""
    characters = np.full((rows, columns), ord(" "), dtype=np.uint32)
    layers = np.zeros((rows, columns), dtype=np.uint8)
    for y in grid or []:
        row = int(vertical(y, plane.y_range, rows, plane.log))
        if 0 <= row < rows:
            characters[row, :] = ord(GRID_CHARACTER)
            layers[row, :] = GRID
    if cursor is not None:
        column = horizontal(cursor, plane.x_range, columns)
        characters[:, column] = ord(CURSOR_CHARACTER)
        layers[:, column] = CURSOR
    return Raster(characters, layers)


def spaced(marks: tuple[Mark, ...], gap: float) -> list[Mark]:
    """The marks that are at least `gap` apart, from the last one back; the best one is kept, and comes last."""
    kept: list[Mark] = []
    best = [mark for mark in marks if mark.best]
    for mark in reversed(marks):
        if not mark.best and all(other.x - mark.x >= gap for other in kept[-1:]):
            kept.append(mark)
    return kept + best


def joined(top: Array, bottom: Array, dots_high: int) -> NDArray[np.bool_]:
    """Dots (dots_high, n) of the band from `top` to `bottom` (n,), each column reaching half way to its neighbours."""
    with np.errstate(invalid="ignore"):
        halfway_top = (top[:-1] + top[1:]) / 2
        halfway_bottom = (bottom[:-1] + bottom[1:]) / 2
        upper, lower = top.copy(), bottom.copy()
        upper[:-1], lower[:-1] = np.fmin(upper[:-1], halfway_top), np.fmax(lower[:-1], halfway_bottom)
        upper[1:], lower[1:] = np.fmin(upper[1:], halfway_top), np.fmax(lower[1:], halfway_bottom)
        dots = np.arange(dots_high)[:, None]
        return (dots >= np.floor(upper)) & (dots <= np.floor(lower))


def _dotted(series: ChartSeries, centres: Array, dots_high: int) -> NDArray[np.bool_]:
    """The evaluations joined by a thin line, every other dot of it."""
    x, y = np.array([(mark.x, mark.y) for mark in series.marks]).T
    line = read_at(centres, x, vertical(y, series.y_range, dots_high, series.log))
    dots = joined(line, line, dots_high)
    dots[:, 1::2] = False
    return dots


def read_at(centres: Array, x: Array, y: Array) -> Array:
    """`y` over `x` read at the dot columns' centres, NaN left of the first point and right of the last."""
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
    """Writes dots (rows * DOTS_Y, columns * DOTS_X) as braille; a character that has a dot replaces what was there."""
    rows, columns = picture.characters.shape
    cells = dots.reshape(rows, DOTS_Y, columns, DOTS_X)
    codes = np.einsum("rycx,yx->rc", cells, _BITS)
    drawn = codes > 0
    picture.characters[drawn] = codes[drawn] + 0x2800
    picture.layers[drawn] = layer
