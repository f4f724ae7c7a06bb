"""From a run's history to what a chart of a given width has to draw. Pure arithmetic on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_core.training.losses import MAX_EXPONENT, MAX_PERPLEXITY, perplexity
from gpt_core.training.metrics import MAX_LOSS
from gpt_tui.session.curve import ELAPSED, HIGH, LOW, SMOOTHED, STEP, TOKENS
from gpt_tui.session.run_state import Evaluation, RunState

Metric = Literal["loss", "perplexity"]
Axis = Literal["steps", "tokens", "time"]
Array = NDArray[np.float64]

AXIS_COLUMN: dict[Axis, int] = {"steps": STEP, "tokens": TOKENS, "time": ELAPSED}
TINY = 1e-9  # the least value that a logarithmic axis shows
MOST_EXPONENT = math.log(1e307)  # of the upper end of a logarithmic axis
SHORTEST = 1e-9  # of a range, in relation to its place: below, floats are too coarse for the columns of a part of it


class Range(NamedTuple):
    """An interval of an axis, in the axis's own unit."""

    low: float
    high: float

    @property
    def span(self) -> float:
        """Its length."""
        return self.high - self.low


class Mark(NamedTuple):
    """One evaluation on the chart."""

    x: float
    y: float
    best: bool


class Plane(Protocol):
    """What a chart shows: parts of both axes; with `log` the y values are to be placed by their logarithm."""

    @property
    def x_range(self) -> Range:
        """From the left edge to the right one."""

    @property
    def y_range(self) -> Range:
        """From the lower edge to the upper one."""

    @property
    def log(self) -> bool:
        """Whether the y axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class ChartSeries:
    """What one chart draws, at most a few values a dot column.

    `x`, `low`, `high` and `smoothed` (n,) are the training curve: the band of the raw values and the line through it,
    NaN where there is none. With `log` the y values are to be placed by their logarithm.
    """

    x: Array
    low: Array
    high: Array
    smoothed: Array
    marks: tuple[Mark, ...]
    x_range: Range
    y_range: Range
    log: bool


def chart_series(
    history: RunState, metric: Metric, axis: Axis, *, columns: int, log: bool = False, window: Range | None = None,
    close: bool | None = None,
) -> ChartSeries | None:  # fmt: skip
    """The series of `metric` over `axis`, thinned to `columns` dot columns; None before there is anything to draw.

    `window` is the part of the x axis that is wanted (None: all of it). The y range fits what is in the window; with
    `close` the first fall may leave it at the top (None: for a perplexity on a linear scale).
    """
    rows = history.curve.rows()
    if not len(rows):
        return None
    column = AXIS_COLUMN[axis]
    x_range = window or whole_range(history, axis)
    # one point on either side of the window, so that lines reach its edges
    first = max(0, int(np.searchsorted(rows[:, column], x_range.low)) - 1)
    last = int(np.searchsorted(rows[:, column], x_range.high, side="right")) + 1
    rows = rows[first:last]
    x, low, high, smoothed = thinned(
        rows[:, column], rows[:, LOW], rows[:, HIGH], rows[:, SMOOTHED], x_range=x_range, columns=columns
    )
    marks = [
        Mark(mark_x, min(max(point.loss, -MAX_LOSS), MAX_LOSS), point.step == history.best.step)
        for point in history.evaluations
        if x_range.low <= (mark_x := axis_value(point, axis)) <= x_range.high
    ]
    if metric == "perplexity":
        low, high, smoothed = (perplexities(values) for values in (low, high, smoothed))
        marks = [mark._replace(y=perplexity(mark.y)) for mark in marks]
    robust = close if close is not None else metric == "perplexity" and not log
    y_range = fitted_range(low, high, smoothed, marks, robust=robust, log=log)
    return ChartSeries(x, low, high, smoothed, tuple(marks), x_range, y_range, log)


def axis_value(point: Evaluation, axis: Axis) -> float:
    """Where an evaluation stands on an axis."""
    return float(point.step if axis == "steps" else point.tokens if axis == "tokens" else point.elapsed_s)


def whole_range(history: RunState, axis: Axis) -> Range:
    """The part of the x axis that the run has covered, never empty."""
    column = AXIS_COLUMN[axis]
    thinned_rows, recent = history.curve.thinned, history.curve.recent
    if not len(recent):
        return Range(0.0, 1.0)
    return nonempty(float(thinned_rows[0, column]), float(recent[-1, column]))


def nonempty(low: float, high: float) -> Range:
    """The range from `low` to `high`, or a longer one where that would be too short to divide into columns."""
    if high - low > max(1.0, abs(low)) * SHORTEST:
        return Range(low, high)
    return Range(low, low + max(1.0, abs(low) * SHORTEST))


def thinned(
    x: Array, low: Array, high: Array, smoothed: Array, *, x_range: Range, columns: int
) -> tuple[Array, Array, Array, Array]:
    """One point for each dot column that has any, at its centre: lowest `low`, highest `high`, last `smoothed`."""
    width = x_range.span / columns
    places = np.floor((x - x_range.low) / width).astype(np.int64)
    places[x == x_range.high] = columns - 1
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 1))
    lasts = np.append(starts[1:], len(x)) - 1
    centres = x_range.low + (places[lasts] + 0.5) * width
    return centres, np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts), smoothed[lasts]


def fitted_range(low: Array, high: Array, smoothed: Array, marks: list[Mark], *, robust: bool, log: bool) -> Range:
    """The y range that shows the values, with a little room.

    `robust` lets the first fifth of the curve and single spikes leave at the top: a perplexity begins at the size of
    the vocabulary, and on its scale the rest of the run would be one flat line.
    """
    tail = slice(len(smoothed) // 5, None) if robust else slice(None)
    tops = [smoothed[tail] if robust else high, np.array([mark.y for mark in marks if not robust])]
    bottoms = [low, np.array([mark.y for mark in marks])]
    top = max((float(values.max()) for part in tops if (values := part[np.isfinite(part)]).size), default=1.0)
    bottom = min((float(values.min()) for part in bottoms if (values := part[np.isfinite(part)]).size), default=0.0)
    bottom = min(bottom, top)
    if log:
        bottom, top = max(bottom, TINY), max(top, TINY)
        room = max(0.04 * (math.log(top) - math.log(bottom)), 0.005)
        return Range(math.exp(math.log(bottom) - room), math.exp(min(math.log(top) + room, MOST_EXPONENT)))
    room = max((top - bottom) * 0.04, abs(top) * 0.005, TINY)
    return Range(bottom - room, top + (top - bottom) * 0.25 * robust + room)


def nearest_row(history: RunState, axis: Axis, x: float) -> tuple[float, ...] | None:
    """The point of the curve nearest to `x`, as (step, tokens, seconds, lowest, highest, smoothed loss)."""
    rows = history.curve.rows()
    if not len(rows):
        return None
    values = rows[:, AXIS_COLUMN[axis]]
    after = min(int(np.searchsorted(values, x)), len(rows) - 1)
    before = max(0, after - 1)
    return tuple(rows[before if abs(values[before] - x) < abs(values[after] - x) else after].tolist())


def clipped(values: Array) -> Array:
    """Return the values within what a chart can compute with; NaN and infinities, which are gaps, stay."""
    return np.where(np.isfinite(values), np.clip(values, -MAX_LOSS, MAX_LOSS), values)


def perplexities(losses: Array) -> Array:
    """Return the perplexity of each loss."""
    exponentials: Array = np.exp(np.minimum(losses, MAX_EXPONENT))
    return np.minimum(exponentials, MAX_PERPLEXITY)
