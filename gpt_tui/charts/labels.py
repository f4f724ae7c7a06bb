"""What stands on a chart's border, as markup: its name and value, the legend, what it says at the cursor. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from textual.content import Content

from gpt_core.training import losses
from gpt_tui.charts.raster import BEST_CHARACTER, EVAL_CHARACTER
from gpt_tui.charts.series import Axis, Metric, axis_value, nearest_row
from gpt_tui.charts.view import ChartView
from gpt_tui.session.curve import ELAPSED, HIGH, LOW, SMOOTHED, STEP, TOKENS
from gpt_tui.session.run_state import Evaluation, RunState
from gpt_tui.shared.formatting import clock, nats, perplexity, short, whole

RAW_SIGN, SMOOTHED_SIGN = "[$foreground 50%]⣿[/]", "[$primary]⠒⠒[/]"
EVAL_SIGN, BEST_SIGN = f"[$warning]{EVAL_CHARACTER}[/]", f"[$success]{BEST_CHARACTER}[/]"


def written(metric: Metric, loss: float) -> str:
    """A loss as this chart has it."""
    return nats(loss) if metric == "loss" else perplexity(losses.perplexity(loss))


def title(history: RunState, metric: Metric, view: ChartView) -> str:
    """The metric, its smoothed value (at the end of the run), and how the y axis differs from what is usual."""
    smoothed = history.curve.smoothed
    value = "" if isnan(smoothed) else f" [b]{written(metric, smoothed)}[/b]"
    reach = {"suited": "", "all": "from the top", "close": "close up"}[view.reach]
    part = "part of the run" if view.span < 1 else ""
    notes = ", ".join(note for note in ("log scale" * view.log, reach, part) if note)
    return f"{metric}{value}" + (f" [dim]{notes}[/]" if notes else "")


def legend(history: RunState, width: int) -> str:
    """What the lines and marks are, as far as there is room in `width` cells."""
    marks = [f"{EVAL_SIGN} eval", f"{BEST_SIGN} best"] if history.evaluations else []
    line = f"{SMOOTHED_SIGN} smoothed"
    return fitting([[f"{RAW_SIGN} each step", line, *marks], [line, *marks], marks], width)


def readout(history: RunState, metric: Metric, view: ChartView, width: int) -> str:
    """What the curve says at the cursor: the raw values and the smoothed one there, and the nearest evaluation."""
    if view.cursor is None or (row := nearest_row(history, view.axis, view.cursor)) is None:
        return ""
    low, high = written(metric, row[LOW]), written(metric, row[HIGH])
    raw = f"{low} to {high}" if low != high else low
    smoothed = written(metric, row[SMOOTHED])
    place = whole(int(row[STEP]))
    full_place = f"step {place}"
    if view.axis != "steps":
        full_place += f", {short(row[TOKENS])} tokens" if view.axis == "tokens" else f", {clock(row[ELAPSED])}"
    point = nearest_evaluation(history.evaluations, view.axis, view.cursor)
    scored = [f"{EVAL_SIGN} {written(metric, point.loss)}"] if point else []
    in_words = [f"{RAW_SIGN} each step {raw}", f"{SMOOTHED_SIGN} smoothed [b]{smoothed}[/b]"]
    if point:
        in_words.append(f"{EVAL_SIGN} eval {written(metric, point.loss)} at {whole(point.step)}")
    in_signs = [f"{RAW_SIGN} {raw}", f"{SMOOTHED_SIGN} [b]{smoothed}[/b]", *scored]
    choices = [[full_place, *in_words], [place, *in_words], [full_place, *in_signs], [place, *in_signs]]
    return fitting([*choices, [place, *in_signs[1:]], [place, in_signs[1]]], width)


def nearest_evaluation(points: Sequence[Evaluation], axis: Axis, x: float) -> Evaluation | None:
    """The evaluation whose place on the axis is nearest to `x`."""
    return min(points, key=lambda point: abs(axis_value(point, axis) - x), default=None)


def fitting(choices: Sequence[Sequence[str]], width: int) -> str:
    """The first of the choices whose parts, two cells between them, fit into `width` cells; none if none does."""
    lines = ("  ".join(parts) for parts in choices)
    return next((line for line in lines if Content.from_markup(line).cell_length <= width), "")
