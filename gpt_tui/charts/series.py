"""Data of a chart: the curve of a run thinned to the width of the chart, evaluations, axis ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_core.training.losses import MAX_EXPONENT, MAX_PERPLEXITY, perplexity
from gpt_core.training.metrics import MAX_LOSS, Metric, metric
from gpt_tui.session.curve import ELAPSED, HIGH, LOW, SMOOTHED, STEP, TOKENS, Curve
from gpt_tui.session.run_state import Evaluation, RunState

Axis = Literal["steps", "tokens", "time"]
Array = NDArray[np.float64]

AXIS_COLUMN: dict[Axis, int] = {"steps": STEP, "tokens": TOKENS, "time": ELAPSED}
MIN_LOG_VALUE = 1e-9  # minimum value on a logarithmic axis
MAX_LOG_EXPONENT = math.log(1e307)  # maximum logarithm of the upper end of a logarithmic axis
MIN_RELATIVE_SPAN = 1e-9  # of a range: a shorter one cannot be divided into columns at the resolution of a float


class Range(NamedTuple):
    """Interval of an axis, in the unit of the axis."""

    low: float
    high: float

    @property
    def span(self) -> float:
        """Length of the interval."""
        return self.high - self.low


class Mark(NamedTuple):
    """Evaluation on a chart."""

    x: float
    y: float
    best: bool


class Plane(Protocol):
    """Coordinate system of a chart."""

    @property
    def x_range(self) -> Range:
        """Range from the left to the right edge."""

    @property
    def y_range(self) -> Range:
        """Range from the lower to the upper edge."""

    @property
    def log(self) -> bool:
        """True if the y axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class ChartSeries:
    """Data of a chart, thinned to about one point per dot column.

    Attributes:
        x: x values, (n,).
        low: Minimum of the step values at each x, (n,); NaN without a value.
        high: Maximum of the step values at each x, (n,).
        smoothed: Moving average at each x, (n,).
        marks: Evaluations.
        x_range: Visible x range.
        y_range: Visible y range.
        log: The y axis is logarithmic.
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
    state: RunState, name: str, axis: Axis, *, columns: int, log: bool = False, window: Range | None = None,
    tight: bool | None = None,
) -> ChartSeries | None:  # fmt: skip
    """Return the data of a chart; None without data.

    Args:
        state: The run.
        name: Metric on the y axis, a function of the train loss: `train_loss` or `perplexity`.
        axis: Quantity on the x axis.
        columns: Width in dot columns.
        log: The y axis is logarithmic.
        window: Visible x range, None for the full range.
        tight: The y range cuts off the initial decrease; None does so for a perplexity on a linear scale.
    """
    rows = state.curve.rows()
    if not len(rows):
        return None
    column = AXIS_COLUMN[axis]
    x_range = window or full_range(state, axis)
    rows = rows[visible_part(rows[:, column], x_range)]
    x, low, high, smoothed = thinned(
        rows[:, column], rows[:, LOW], rows[:, HIGH], rows[:, SMOOTHED], x_range=x_range, columns=columns
    )
    marks = [
        Mark(mark_x, min(max(point.loss, -MAX_LOSS), MAX_LOSS), point.step == state.best.step)
        for point in state.evaluations
        if x_range.low <= (mark_x := axis_value(point, axis)) <= x_range.high
    ]
    if transform := metric(name).transform:
        low, high, smoothed = (transformed(metric(name), values) for values in (low, high, smoothed))
        marks = [mark._replace(y=transform(mark.y)) for mark in marks]
    tight = tight if tight is not None else name == "perplexity" and not log
    y_range = fitted_range(low, high, smoothed, marks, tight=tight, log=log)
    return ChartSeries(x, low, high, smoothed, tuple(marks), x_range, y_range, log)


def axis_value(point: Evaluation, axis: Axis) -> float:
    """Return the x value of an evaluation."""
    return float(point.step if axis == "steps" else point.tokens if axis == "tokens" else point.elapsed_s)


def full_range(state: RunState, axis: Axis) -> Range:
    """Return the full x range of a run; never empty."""
    column = AXIS_COLUMN[axis]
    thinned_rows, recent = state.curve.thinned, state.curve.recent
    if not len(recent):
        return Range(0.0, 1.0)
    return nonempty(float(thinned_rows[0, column]), float(recent[-1, column]))


def nonempty(low: float, high: float) -> Range:
    """Return the range from `low` to `high`, extended if it is too short to be divided into columns."""
    if high - low > max(1.0, abs(low)) * MIN_RELATIVE_SPAN:
        return Range(low, high)
    return Range(low, low + max(1.0, abs(low) * MIN_RELATIVE_SPAN))


def visible_part(x: Array, window: Range) -> slice:
    """Return the points of `x` (n,) in the window, and one on each side, so that lines reach its edges."""
    first = max(0, int(np.searchsorted(x, window.low)) - 1)
    return slice(first, int(np.searchsorted(x, window.high, side="right")) + 1)


def thinned(
    x: Array, low: Array, high: Array, smoothed: Array, *, x_range: Range, columns: int
) -> tuple[Array, Array, Array, Array]:
    """Return one point per nonempty dot column, at its centre: minimum of `low`, maximum of `high`, last `smoothed`."""
    width = x_range.span / columns
    places = np.floor((x - x_range.low) / width).astype(np.int64)
    places[x == x_range.high] = columns - 1
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 1))
    lasts = np.append(starts[1:], len(x)) - 1
    centres = x_range.low + (places[lasts] + 0.5) * width
    return centres, np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts), smoothed[lasts]


def fitted_range(low: Array, high: Array, smoothed: Array, marks: list[Mark], *, tight: bool, log: bool) -> Range:
    """Return the y range of the values, with a small margin.

    `tight` ignores the first fifth of the curve and single spikes: a perplexity starts at the size of the vocabulary,
    and on that scale the rest of the run would be a flat line.
    """
    tail = slice(len(smoothed) // 5, None) if tight else slice(None)
    tops = [smoothed[tail] if tight else high, np.array([mark.y for mark in marks if not tight])]
    bottoms = [low, np.array([mark.y for mark in marks])]
    top = max((float(values.max()) for part in tops if (values := part[np.isfinite(part)]).size), default=1.0)
    bottom = min((float(values.min()) for part in bottoms if (values := part[np.isfinite(part)]).size), default=0.0)
    bottom = min(bottom, top)
    if log:
        bottom, top = max(bottom, MIN_LOG_VALUE), max(top, MIN_LOG_VALUE)
        room = max(0.04 * (math.log(top) - math.log(bottom)), 0.005)
        return Range(math.exp(math.log(bottom) - room), math.exp(min(math.log(top) + room, MAX_LOG_EXPONENT)))
    room = max((top - bottom) * 0.04, abs(top) * 0.005, MIN_LOG_VALUE)
    return Range(bottom - room, top + (top - bottom) * 0.25 * tight + room)


def nearest_row(state: RunState, axis: Axis, x: float) -> tuple[float, ...] | None:
    """Return the point of the curve nearest to `x`: (step, tokens, seconds, minimum, maximum, smoothed loss)."""
    return nearest_point(state.curve, axis, x)


def nearest_point(curve: Curve, axis: Axis, x: float) -> tuple[float, ...] | None:
    """Return the point of any curve nearest to `x`, None if it is empty."""
    rows = curve.rows()
    if not len(rows):
        return None
    values = rows[:, AXIS_COLUMN[axis]]
    after = min(int(np.searchsorted(values, x)), len(rows) - 1)
    before = max(0, after - 1)
    return tuple(rows[before if abs(values[before] - x) < abs(values[after] - x) else after].tolist())


def clipped(values: Array) -> Array:
    """Return finite values clipped to the range that a chart can compute with; NaN and infinities remain gaps."""
    return np.where(np.isfinite(values), np.clip(values, -MAX_LOSS, MAX_LOSS), values)


def transformed(metric: Metric, values: Array) -> Array:
    """Apply the transform of a metric to each value."""
    if metric.transform is perplexity:
        return perplexities(values)
    return values if metric.transform is None else np.array([metric.transform(value) for value in values.tolist()])


def perplexities(losses: Array) -> Array:
    """Return the perplexity of each loss."""
    exponentials: Array = np.exp(np.minimum(losses, MAX_EXPONENT))
    return np.minimum(exponentials, MAX_PERPLEXITY)
