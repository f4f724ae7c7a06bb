"""Round numbers for the axes of a chart, and how they are written."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor, log10

from gpt_tui.shared.formatting import short


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... (times a power of ten) that divides `span` into at most `most` parts."""
    rough = span / max(1, most)
    power = 10.0 ** floor(log10(rough))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= rough * 0.999999), 10.0 * power)


def linear_ticks(low: float, high: float, most: int, least_step: float = 0.0) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` + 1 of them and at least `least_step` apart.

    Two at least, where `least_step` allows it: one alone tells nothing of the scale.
    """
    if not high > low:
        return [low]
    step = max(least_step, nice_step(high - low, most))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    if last - first < 1 and most < 16 and step > least_step:
        return linear_ticks(low, high, most * 2, least_step)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers for a logarithmic axis: 1, 2, 5 of each power of ten, fewer when there are too many.

    Where the axis is so short that less than three of these are on it, round numbers of a linear axis are taken.
    """
    if not high > low > 0:
        return [low]
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= most + 1:
            break
    if len(ticks) < 3:
        return [tick for tick in linear_ticks(low, high, most) if tick > 0]
    return ticks[:: ceil(len(ticks) / (most + 1))]


def tick_labels(ticks: list[float]) -> list[str]:
    """Labels with as many decimals as tell the ticks apart, thousands and millions as suffixes."""
    if len(ticks) < 2:
        return [f"{tick:,.4g}" for tick in ticks]
    gap = min(b - a for a, b in pairwise(ticks))
    largest = max(abs(tick) for tick in ticks)
    if largest >= 10_000:
        divisor, suffix = (1e6, "M") if largest >= 1e6 else (1e3, "k")
        return [f"{tick / divisor:g}{suffix}" if tick else "0" for tick in ticks]
    decimals = max(0, -floor(log10(gap) + 1e-9)) if gap > 0 else 0
    return [f"{tick:,.{decimals}f}" if decimals <= 6 else short(tick) for tick in ticks]


def time_step(span_s: float, most: int) -> float:
    """A round number of seconds, minutes, hours or days that divides `span_s` into at most `most` parts."""
    choices = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    return next(
        (float(choice) for choice in choices if span_s / choice <= most), 86400 * nice_step(span_s / 86400, most)
    )


def time_ticks(low: float, high: float, most: int) -> list[float]:
    """Round times from `low` to `high` (seconds)."""
    if not high > low:
        return [low]
    step = time_step(high - low, most)
    return [index * step for index in range(ceil(low / step), floor(high / step) + 1)]


def time_labels(ticks: list[float]) -> list[str]:
    """0, 30 s, 5 min, 2 h: the unit that suits each."""

    def label(tick: float) -> str:
        for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
            if tick >= unit and tick % unit == 0:
                return f"{tick / unit:g} {name}"
        minutes, seconds = divmod(tick, 60)
        return f"{minutes:g}:{seconds:02.0f}" if minutes else f"{seconds:g} s"

    return [label(tick) for tick in ticks]
