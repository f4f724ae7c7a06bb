"""Round numbers for the axes of a chart, and how they are written."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor, inf, log10

from gpt_tui.shared.formatting import scientific

SMALLEST_POWER, LARGEST_POWER = -307, 307  # of ten, that a float holds with all its digits
SUFFIXES = ((12, "T"), (9, "G"), (6, "M"), (3, "k"))


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... (times a power of ten) that divides `span` into at most `most` parts."""
    rough = min(max(span / max(1, most), 10.0**SMALLEST_POWER), 10.0**LARGEST_POWER)
    power = 10.0 ** floor(log10(rough))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= rough * 0.999999), 10.0 * power)


def linear_ticks(low: float, high: float, most: int, least_step: float = 0.0) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` + 1 of them and at least `least_step` apart.

    Two at least, where `least_step` allows it: one alone tells nothing of the scale.
    """
    if not 0 < high - low < inf:
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
    if not 0 < low < high < inf:
        return [low]
    powers = range(max(SMALLEST_POWER, floor(log10(low))), min(LARGEST_POWER, ceil(log10(high))) + 1)
    for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= most + 1:
            break
    if len(ticks) < 3:
        return [tick for tick in linear_ticks(low, high, most) if tick > 0]
    return ticks[:: ceil(len(ticks) / (most + 1))]


def tick_labels(ticks: list[float]) -> list[str]:
    """Labels with as many decimals as tell the ticks apart.

    Large ones have a suffix, k to T, and the largest are in scientific notation; where the ticks span several powers of
    ten, each of them is labelled for itself.
    """
    if len(ticks) < 2:
        return [f"{tick:,.4g}" for tick in ticks]
    gap = min(b - a for a, b in pairwise(ticks))
    largest, smallest = max(abs(tick) for tick in ticks), min(abs(tick) for tick in ticks if tick)
    decimals = max(0, -floor(log10(gap) + 1e-9)) if gap > 0 else 0
    if largest > smallest * 200 and (largest >= 10_000 or decimals > 2):
        return [short_label(tick) for tick in ticks]
    if largest >= 1e15 or decimals > 6:
        return told_apart(ticks)
    if largest < 10_000:
        return [f"{tick:,.{decimals}f}" for tick in ticks]
    divisor, suffix = next((10.0**power, suffix) for power, suffix in SUFFIXES if largest >= 10.0**power)
    return [f"{tick / divisor:g}{suffix}" if tick else "0" for tick in ticks]


def short_label(tick: float) -> str:
    """One tick of a scale of many powers of ten: 0.01, 200, 50k, 1M, 2e+60."""
    for power, suffix in SUFFIXES:
        if 10.0**power <= abs(tick) < 1e15:
            return f"{tick / 10.0**power:g}{suffix}"
    return f"{tick:.0e}" if abs(tick) >= 1e15 else f"{tick:g}"


def told_apart(ticks: list[float]) -> list[str]:
    """Labels in scientific notation with as few digits as tell the ticks apart."""
    for digits in range(6):
        labels = [f"{tick:.{digits}e}" if tick else "0" for tick in ticks]
        if len(set(labels)) == len(ticks):
            return labels
    return [scientific(tick) for tick in ticks]


def time_step(span_s: float, most: int) -> float:
    """A round number of seconds, minutes, hours or days that divides `span_s` into at most `most` parts."""
    choices = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    return next(
        (float(choice) for choice in choices if span_s / choice <= most), 86400 * nice_step(span_s / 86400, most)
    )


def time_ticks(low: float, high: float, most: int) -> list[float]:
    """Round times from `low` to `high` (seconds)."""
    if not 0 < high - low < inf:
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
