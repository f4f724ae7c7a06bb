"""Axes of a chart: round tick values, their labels, and the width of a y axis. Does not import Textual."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor, inf, log10
from typing import NamedTuple

from gpt_tui.charts.series import Plane
from gpt_tui.shared.formatting import scientific

ROWS_PER_TICK = 2
MIN_EXPONENT, MAX_EXPONENT = -307, 307  # powers of ten that a float holds with full precision
SUFFIXES = ((12, "T"), (9, "G"), (6, "M"), (3, "k"))
TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


class YAxis(NamedTuple):
    """Ticks of a y axis.

    Attributes:
        ticks: Tick values, in units of y; a grid line is drawn at each.
        labels: Label of each tick.
    """

    ticks: list[float]
    labels: list[str]

    @property
    def width(self) -> int:
        """Width of the longest label, in cells."""
        return max((len(label) for label in self.labels), default=0)


def y_axis(plane: Plane, rows: int, *, percent: bool = False) -> YAxis:
    """Return the y axis of a plot area `rows` cells high.

    Args:
        plane: The coordinate system.
        rows: Height in cells.
        percent: The values are fractions, labeled as percentages.
    """
    find_ticks = log_ticks if plane.log else linear_ticks
    ticks = find_ticks(*plane.y_range, max(1, -(-rows // ROWS_PER_TICK)))
    if percent:
        return YAxis(ticks, [f"{label}%" for label in tick_labels([tick * 100 for tick in ticks])])
    return YAxis(ticks, tick_labels(ticks))


def nice_step(span: float, max_parts: int) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, ... (times a power of ten) that gives at most `max_parts` parts."""
    rough = min(max(span / max(1, max_parts), 10.0**MIN_EXPONENT), 10.0**MAX_EXPONENT)
    power = 10.0 ** floor(log10(rough))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= rough * 0.999999), 10.0 * power)


def linear_ticks(low: float, high: float, max_parts: int, min_step: float = 0.0) -> list[float]:
    """Return round numbers from `low` to `high`.

    Args:
        low: Lower end of the axis.
        high: Upper end of the axis.
        max_parts: Maximum number of parts between ticks; doubled if fewer than two ticks fit, as a single tick does
            not show the scale.
        min_step: Minimum distance between ticks.
    """
    if not 0 < high - low < inf:
        return [low]
    step = max(min_step, nice_step(high - low, max_parts))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    if last - first < 1 and max_parts < 16 and step > min_step:
        return linear_ticks(low, high, max_parts * 2, min_step)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float, max_parts: int) -> list[float]:
    """Return round numbers for a logarithmic axis: 1, 2, 5 of each power of ten, or fewer if they are too many.

    An axis too short for three of them gets the ticks of a linear axis.
    """
    if not 0 < low < high < inf:
        return [low]
    powers = range(max(MIN_EXPONENT, floor(log10(low))), min(MAX_EXPONENT, ceil(log10(high))) + 1)
    for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= max_parts + 1:
            break
    if len(ticks) < 3:
        return [tick for tick in linear_ticks(low, high, max_parts) if tick > 0]
    return ticks[:: ceil(len(ticks) / (max_parts + 1))]


def tick_labels(ticks: list[float]) -> list[str]:
    """Return distinct labels with as few decimals as possible.

    Large values have a suffix, k to T; the largest use scientific notation. Ticks that span several powers of ten are
    formatted one by one.
    """
    if len(ticks) < 2:
        return [f"{tick:,.4g}" for tick in ticks]
    gap = min(b - a for a, b in pairwise(ticks))
    largest, smallest = max(abs(tick) for tick in ticks), min(abs(tick) for tick in ticks if tick)
    decimals = max(0, -floor(log10(gap) + 1e-9)) if gap > 0 else 0
    if largest > smallest * 200 and (largest >= 10_000 or decimals > 2):
        return [short_label(tick) for tick in ticks]
    if largest >= 1e15 or decimals > 6:
        return scientific_labels(ticks)
    if largest < 10_000:
        return [f"{tick:,.{decimals}f}" for tick in ticks]
    divisor, suffix = next((10.0**power, suffix) for power, suffix in SUFFIXES if largest >= 10.0**power)
    return [f"{tick / divisor:g}{suffix}" if tick else "0" for tick in ticks]


def short_label(tick: float) -> str:
    """Return the label of a tick on its own: 0.01, 200, 50k, 1M, 2e+60."""
    for power, suffix in SUFFIXES:
        if 10.0**power <= abs(tick) < 1e15:
            return f"{tick / 10.0**power:g}{suffix}"
    return f"{tick:.0e}" if abs(tick) >= 1e15 else f"{tick:g}"


def scientific_labels(ticks: list[float]) -> list[str]:
    """Return distinct labels in scientific notation with as few digits as possible."""
    for digits in range(6):
        labels = [f"{tick:.{digits}e}" if tick else "0" for tick in ticks]
        if len(set(labels)) == len(ticks):
            return labels
    return [scientific(tick) for tick in ticks]


def time_step(span_s: float, max_parts: int) -> float:
    """Return a round number of seconds, minutes, hours or days that gives at most `max_parts` parts."""
    return next(
        (float(step) for step in TIME_STEPS_S if span_s / step <= max_parts),
        86400 * nice_step(span_s / 86400, max_parts),
    )


def time_ticks(low: float, high: float, max_parts: int) -> list[float]:
    """Return round times from `low` to `high`, in seconds."""
    if not 0 < high - low < inf:
        return [low]
    step = time_step(high - low, max_parts)
    return [index * step for index in range(ceil(low / step), floor(high / step) + 1)]


def time_labels(ticks: list[float]) -> list[str]:
    """Return labels such as `0 s`, `30 s`, `5 min`, `2 h`."""
    return [time_label(tick) for tick in ticks]


def time_label(tick: float) -> str:
    """Return a time in the largest unit that divides it, else as minutes and seconds."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if tick >= unit and tick % unit == 0:
            return f"{tick / unit:g} {name}"
    minutes, seconds = divmod(tick, 60)
    return f"{minutes:g}:{seconds:02.0f}" if minutes else f"{seconds:g} s"
