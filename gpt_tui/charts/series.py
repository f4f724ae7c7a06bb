"""Data of a chart: the curve of a run thinned to the width of the chart, evaluations, axis ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_core.training.events import EvalCompleted
from gpt_core.training.losses import MAX_EXPONENT, MAX_PERPLEXITY, perplexity
from gpt_core.training.metrics import BUILT_IN, MAX_LOSS, Metric, added_metrics, metric
from gpt_tui.session.curve import ELAPSED, HIGH, LOW, SMOOTHED, STEP, TOKENS, Curve
from gpt_tui.session.run_state import Evaluation, RunState
from gpt_tui.session.stats_history import Place

Axis = Literal["steps", "tokens", "time"]
Array = NDArray[np.float64]

LOSSES = frozenset({"step_loss", "train_loss", "perplexity"})  # metrics that `RunState.curve` holds
SECOND = ("perplexity", "learning_rate", "grad_norm", "throughput", "accuracy", "bits_per_byte")
AXIS_COLUMN: dict[Axis, int] = {"steps": STEP, "tokens": TOKENS, "time": ELAPSED}
MIN_LOG_VALUE = 1e-9  # minimum value on a logarithmic axis
MAX_LOG_EXPONENT = math.log(1e307)  # maximum logarithm of the upper end of a logarithmic axis
AVERAGED = frozenset({"grad_norm", "throughput"})  # noisy metrics: their charts have a moving average over the values
NO_CURVE = Curve()
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


class Names(NamedTuple):
    """Names of what a chart shows of a function of the losses."""

    step: str
    train: str
    eval: str


LOSS_NAMES = {
    "train_loss": Names("step loss", "train loss", "eval loss"),
    "perplexity": Names("step perplexity", "train perplexity", "eval perplexity"),
}


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

    @property
    def max_above(self) -> float | None:
        """Largest visible value above the y range, None if all values are in it."""


@dataclass(frozen=True, slots=True)
class ChartSeries:
    """Data of a chart, thinned to about one point per dot column.

    Attributes:
        x: x values, (n,).
        low: Minimum of the step values at each x, (n,); NaN without a value.
        high: Maximum of the step values at each x, (n,).
        smoothed: Moving average at each x, (n,); the values themselves of a metric that is not averaged.
        marks: Evaluations.
        x_range: Visible x range.
        y_range: Visible y range.
        log: The y axis is logarithmic.
        induction_x: x value at which the first induction head appeared; None if it is not visible.
    """

    x: Array
    low: Array
    high: Array
    smoothed: Array
    marks: tuple[Mark, ...]
    x_range: Range
    y_range: Range
    log: bool
    induction_x: float | None = None

    @property
    def max_above(self) -> float | None:
        """Largest visible value above the y range, None if all values are in it."""
        values = [
            *(part[visible(self.x, self.x_range)] for part in (self.high, self.smoothed)),
            np.array([mark.y for mark in self.marks]),
        ]
        return max_above(values, self.y_range)


def max_above(parts: Sequence[Array], y_range: Range) -> float | None:
    """Return the largest of the values above a y range, None if there is none."""
    return max((float(values.max()) for part in parts if (values := part[part > y_range.high]).size), default=None)


def visible(x: Array, x_range: Range) -> NDArray[np.bool_]:
    """Return which x values are inside the x range."""
    return (x >= x_range.low) & (x <= x_range.high)


def chart_series(
    state: RunState, name: str, axis: Axis, *, columns: int, log: bool = False, window: Range | None = None,
    tight: bool | None = None,
) -> ChartSeries | None:  # fmt: skip
    """Return the data of a chart; None without data.

    Args:
        state: The run.
        name: Metric on the y axis. Evaluations are marks, on the charts of `train_loss` and `perplexity`, too.
        axis: Quantity on the x axis.
        columns: Width in dot columns.
        log: The y axis is logarithmic.
        window: Visible x range, None for the full range.
        tight: The y range cuts off the initial decrease; None does so for a perplexity on a linear scale.
    """
    shown = metric(name)
    x_range = window or full_range(state, axis)
    marks = [mark for mark in marks_of(state, shown, axis) if x_range.low <= mark.x <= x_range.high]
    x = low = high = smoothed = np.empty(0)
    if shown.event is not EvalCompleted:
        rows, column = curve_of(state, shown).rows(), AXIS_COLUMN[axis]
        rows = rows[visible_part(rows[:, column], x_range)]
        if not len(rows):
            return None
        line = rows[:, SMOOTHED if is_averaged(shown) else HIGH]
        x, low, high, smoothed = thinned(
            rows[:, column], rows[:, LOW], rows[:, HIGH], line, x_range=x_range, columns=columns
        )
        low, high, smoothed = (transformed(shown, values) for values in (low, high, smoothed))
    elif not marks:
        return None
    tight = tight if tight is not None else name == "perplexity" and not log
    tight = tight and shown.event is not EvalCompleted
    y_range = fitted_range(low, high, smoothed, marks, tight=tight, log=log)
    induction_x = induction_place(state, shown, axis, x_range)
    return ChartSeries(x, low, high, smoothed, tuple(marks), x_range, y_range, log, induction_x)


def induction_place(state: RunState, shown: Metric, axis: Axis, window: Range) -> float | None:
    """Return where the first induction head appeared, on the chart of a loss; None elsewhere or outside the window."""
    if state.induction is None or not shares_evaluations(shown):
        return None
    x = axis_value(state.induction.place, axis)
    return x if window.low <= x <= window.high else None


def marks_of(state: RunState, shown: Metric, axis: Axis) -> list[Mark]:
    """Return the evaluations on the chart of a metric: its values, or the eval losses beside the train loss."""
    if shown.event is EvalCompleted and shown not in BUILT_IN:
        rows = curve_of(state, shown).rows()
        return [Mark(float(row[AXIS_COLUMN[axis]]), _limited(row[HIGH]), row[STEP] == state.best.step) for row in rows]
    if shown.event is not EvalCompleted and not shares_evaluations(shown):
        return []
    read = shown.read if shown.event is EvalCompleted else metric("eval_loss").read
    values = [_limited(read(point)) for point in state.evaluations]
    if shown.transform:
        values = [shown.transform(value) for value in values]
    return [
        Mark(axis_value(point, axis), value, point.step == state.best.step)
        for point, value in zip(state.evaluations, values, strict=True)
    ]


def _limited(value: float) -> float:
    return min(max(value, -MAX_LOSS), MAX_LOSS)


def shares_evaluations(shown: Metric) -> bool:
    """Return True for a function of the train loss: its chart shows that function of the eval losses, too."""
    return shown.name in LOSS_NAMES


def is_averaged(shown: Metric) -> bool:
    """Return True if the line of a metric is a moving average of its values."""
    return shown.smoothed or shown.name in AVERAGED


def is_evaluated(shown: Metric) -> bool:
    """Return True for a built-in metric of evaluations, whose values are those of `RunState.evaluations`."""
    return shown in BUILT_IN and shown.event is EvalCompleted


def curve_of(state: RunState, shown: Metric) -> Curve:
    """Return the curve of a metric: the train loss, or the values of another metric."""
    return state.curve if shown.name in LOSSES else state.curves.get(shown.name, NO_CURVE)


def second_metrics() -> tuple[str, ...]:
    """Return the names of the metrics that the second chart of a run can show."""
    return (*SECOND, *(added.name for added in added_metrics()))


def axis_value(point: Evaluation | Place, axis: Axis) -> float:
    """Return the x value of an evaluation or another place in a run."""
    return float(point.step if axis == "steps" else point.tokens if axis == "tokens" else point.elapsed_s)


def full_range(state: RunState, axis: Axis) -> Range:
    """Return the full x range of a run; never empty."""
    column = AXIS_COLUMN[axis]
    thinned_rows, recent = state.curve.thinned, state.curve.recent
    if not len(recent):
        return Range(0.0, 1.0)
    first = float(thinned_rows[0, column])
    if state.evaluations:  # the first may be from before the first step
        first = min(first, axis_value(state.evaluations[0], axis))
    return nonempty(first, float(recent[-1, column]))


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
    """Return one point per nonempty dot column, at its center: minimum of `low`, maximum of `high`, last `smoothed`."""
    width = x_range.span / columns
    places = np.floor((x - x_range.low) / width).astype(np.int64)
    places[x == x_range.high] = columns - 1
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 1))
    lasts = np.append(starts[1:], len(x)) - 1
    centers = x_range.low + (places[lasts] + 0.5) * width
    return centers, np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts), smoothed[lasts]


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
