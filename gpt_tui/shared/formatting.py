"""Formatting of numbers: short, of fixed precision, with units."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.model.scores import EvalScores
from gpt_core.training.events import EvalCompleted, FullEvalCompleted
from gpt_core.training.losses import MAX_PERPLEXITY
from gpt_core.training.metrics import Metric

if TYPE_CHECKING:
    from gpt_core.interpret import Part

ENDED_AT_ONCE = "(end of text at once)"  # in place of an empty continuation of a prompt
ONLY_WHITE_SPACE = "(only white space)"  # in place of one that shows nothing
NOT_A_NUMBER = "–"
PART_MARK = "~"
"""mark of scores of a part of the eval text"""
MAX_DAYS = 100_000  # more are written in scientific notation


def shown_continuation(text: str) -> str:
    """Return the continuation of a prompt as it is, or a note in parentheses in place of one that shows nothing."""
    if text.strip():
        return text
    return f" {ONLY_WHITE_SPACE if text else ENDED_AT_ONCE}"


def scientific(value: float) -> str:
    """Format with two significant digits and an exponent: 123456789 -> 1.2e+08. At most nine characters."""
    return f"{value:.1e}" if isfinite(value) else NOT_A_NUMBER


def counted(number: int, one: str, several: str = "") -> str:
    """Format a count with its noun: `1 step`, `2 steps`; `several` is the plural of an irregular noun."""
    return f"{integer(number)} {one if number == 1 else several or one + 's'}"


def integer(number: float) -> str:
    """Format a count: 1234567 -> 1,234,567; from 10^15 on 1.2e+15."""
    if isinstance(number, float) and not isfinite(number):
        return NOT_A_NUMBER
    if abs(number) >= 1e300:
        return "> 1e300" if number > 0 else "< -1e300"
    return f"{round(number):,}" if abs(number) < 1e15 else scientific(number)


def short(number: float) -> str:
    """Format with three significant digits and a suffix: 1058944 -> 1.06M, 10480 -> 10.5k, 0.25 -> 0.25."""
    if not isfinite(number):
        return NOT_A_NUMBER
    if abs(number) >= 1e15:
        return scientific(number)
    for bound, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= bound * 0.9995:
            scaled = number / bound
            return f"{scaled:.{0 if abs(scaled) >= 99.95 else 1 if abs(scaled) >= 9.995 else 2}f}{suffix}"
    return f"{number:.3g}"


def fixed(value: float, decimals: int = 3) -> str:
    """Format with `decimals` decimals, fewer from 100 on: 2.5 -> 2.500, 123.456 -> 123.46, 654321 -> 6.5e+05."""
    if not isfinite(value):
        return "not finite"
    if abs(value) >= 1e5:
        return scientific(value)
    if abs(value) >= 100:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{min(decimals, 2)}f}"
    return f"{value:z.{decimals}f}"  # z: no minus sign before 0.00


def narrow(value: float) -> str:
    """Format a loss or score in at most six characters, for a table: 321.40, 54,321, 1e+189; a dash if not finite."""
    if not isfinite(value):
        return NOT_A_NUMBER
    text = fixed(value)
    return text if len(text) <= 6 else f"{value:.0e}"


def significant(value: float) -> str:
    """Format with three significant digits, also zeros: 61 -> 61.0, 0.03 -> 0.0300, 123 -> 123, 1.2e-05 -> 1.20e-05."""
    if not isfinite(value):
        return NOT_A_NUMBER
    return f"{value:#.3g}".removesuffix(".") if value else "0"


def nats(value: float) -> str:
    """Format a loss: three decimals, from 0.1 down three significant digits."""
    return fixed(value) if value >= 0.1 or not isfinite(value) else significant(value)


def learning_rate(settings: Settings) -> str:
    """Return the learning rate of all parameters, or the lowest and highest of the groups: `3e-05 to 0.0003`."""
    rates = [getattr(settings, name) for name in GROUP_RATES]
    return " to ".join(rate(value) for value in sorted({min(rates), max(rates)}))


def scores_text(scores: EvalScores | EvalCompleted | FullEvalCompleted) -> str:
    """Return the scores of an evaluation: `eval loss 4.221, accuracy 25.3%, 2.103 bits per byte`."""
    loss, bits = nats(scores.loss), fixed(scores.bits_per_byte)
    return f"eval loss {loss}, accuracy {percent(scores.accuracy)}, {bits} bits per byte"


def perplexity(value: float) -> str:
    """Format a perplexity: 2048 -> 2,048, 144.31 -> 144.3, 44.31 -> 44.31; from a million on 1.2e+06."""
    if value >= MAX_PERPLEXITY:
        return f"> {MAX_PERPLEXITY:.0e}".replace("+", "")
    if not isfinite(value):
        return NOT_A_NUMBER
    if abs(value) >= 1e6:
        return scientific(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def rate(value: float) -> str:
    """Format a learning rate: 0.003 -> 3.00e-3, 1.0 -> 1.0, 0 -> 0."""
    if value == 0.0:
        return "0"
    if not isfinite(value):
        return NOT_A_NUMBER
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}" if int(exponent) else str(float(mantissa))


def percent(fraction: float) -> str:
    """Format a fraction as a percentage: 0.3124 -> 31.2%."""
    if not isfinite(fraction):
        return NOT_A_NUMBER
    if abs(fraction) >= 1e4:
        return f"{scientific(min(max(fraction, -1e300), 1e300) * 100)}%"
    return f"{fraction * 100:.1f}%"


def probability(value: float, decimals: int = 1) -> str:
    """Format a probability as a percentage, one that would be rounded to 0 as below the least: 31.2%, < 0.1%."""
    if not isfinite(value):
        return NOT_A_NUMBER
    least = 0.1**decimals
    return f"{value * 100:.{decimals}f}%" if value * 100 >= least / 2 else f"< {least:.{decimals}f}%"


def duration(seconds: float) -> str:
    """Format seconds in the two largest units: 252 -> 4 min 12 s."""
    if not isfinite(seconds):
        return NOT_A_NUMBER
    if seconds >= MAX_DAYS * 86400:
        return f"{scientific(seconds / 86400)} d"
    whole_s = max(0, round(seconds))
    minutes, s = divmod(whole_s, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {s:02} s" if minutes else f"{s} s"


def estimated_duration(seconds: float) -> str:
    """Format an estimate in seconds, from ten minutes on without the seconds: 2521 -> 42 min."""
    if not 600 <= seconds < 3600:
        return duration(seconds)
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else duration(3600)


def minutes_text(minutes: float) -> str:
    """Return a number of minutes in words: `1 minute`, `30 minutes`, `8 hours`."""
    number, unit = (minutes / 60, "hour") if minutes >= 120 else (minutes, "minute")
    return f"{number:g} {unit}{'s' * (number != 1)}"


AGE_INTERVAL_S = 1.0  # between two updates of the ages on the screen


def age(seconds: float) -> str:
    """Format seconds in the largest unit: 252 -> 4 min."""
    return " ".join(duration(seconds).split()[:2])


def clock(seconds: float) -> str:
    """Format elapsed seconds as m:ss, or h:mm:ss from an hour on."""
    if not isfinite(seconds) or seconds >= MAX_DAYS * 86400:
        return duration(seconds)
    minutes, s = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}" if minutes >= 60 else f"{minutes}:{s:02}"


def size(number: float) -> str:
    """Format a number of bytes: 220200960 -> 220 MB."""
    if not isfinite(number):
        return NOT_A_NUMBER
    if abs(number) >= 1e15:
        return f"{scientific(number)} B"
    for bound, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= bound * 0.9995:  # which is rounded to one of this unit, not to 1000 of the smaller one
            scaled = number / bound
            return f"{scaled:.{0 if scaled >= 99.5 else 1}f} {suffix}"
    return f"{number:.0f} B"


def bar(fraction: float, width: int) -> str:
    """Return a progress bar of `width` cells, with a resolution of half a cell."""
    halves = round(min(1.0, max(0.0, fraction)) * width * 2)
    return ("━" * (halves // 2) + "╸" * (halves % 2)).ljust(width, "─")


def metric_value(metric: Metric, value: float, *, unit: bool = True) -> str:
    """Format a value of a registered metric."""
    formats = {
        "loss": nats, "perplexity": perplexity, "percent": percent, "fixed": fixed, "scientific": rate, "short": short,
    }  # fmt: skip
    return f"{formats[metric.format](value)} {metric.unit if unit else ''}".rstrip()


def skipped_note(read: int, skipped: int) -> str:
    """Return a note that the context holds only the last tokens of a prompt, "" if it holds all of them."""
    if not skipped:
        return ""
    return f"the model reads only the last {integer(read)} of the prompt's {integer(read + skipped)} tokens"


def part_name(part: Part) -> str:
    """Return the displayed name of a part of a model."""
    return {
        "head": f"layer {part.layer} head {part.head}", "attn": f"layer {part.layer} attention",
        "mlp": f"layer {part.layer} MLP", "block": f"layer {part.layer} block",
    }[part.kind]  # fmt: skip


def place_name(place: str) -> str:
    """Return the displayed name of a residual place: `h.0.resid_mid` is `attn 0`, `h.0.out` is `mlp 0`."""
    if not place.startswith("h."):
        return place
    _, layer, name = place.split(".")
    return f"{'attn' if name == 'resid_mid' else 'mlp'} {layer}"
