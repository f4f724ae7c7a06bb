"""Text on a chart's border, as markup: title, legend, readout at the cursor. Imports only the markup of Textual."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from textual.content import Content

from gpt_core.training.metrics import Metric
from gpt_core.training.metrics import metric as registered
from gpt_tui.charts.raster import BEST_CHARACTER, EVAL_CHARACTER
from gpt_tui.charts.series import Axis, axis_value, nearest_row
from gpt_tui.charts.view import ChartView
from gpt_tui.session.curve import ELAPSED, HIGH, LOW, SMOOTHED, STEP, TOKENS
from gpt_tui.session.run_state import Evaluation, RunState
from gpt_tui.shared.formatting import clock, integer, metric_value, short

STEP_SIGN, SMOOTHED_SIGN = "[$foreground 50%]⣿[/]", "[$primary]⠒⠒[/]"
EVAL_SIGN, BEST_SIGN = f"[$warning]{EVAL_CHARACTER}[/]", f"[$success]{BEST_CHARACTER}[/]"


def value_text(metric: Metric, loss: float) -> str:
    """Format a loss as a value of the metric."""
    return metric_value(metric, metric.transform(loss) if metric.transform else loss, unit=False)


def title(state: RunState, name: str, view: ChartView) -> str:
    """Return y axis, latest smoothed value, and what differs from the default view."""
    metric, smoothed = registered(name), state.curve.smoothed
    value = "" if isnan(smoothed) else f" [b]{value_text(metric, smoothed)}[/b]"
    y_range = "" if view.y_range == "auto" else view.y_range
    zoomed = "zoomed" if view.span < 1 else ""
    notes = ", ".join(note for note in ("log scale" * view.log, y_range, zoomed) if note)
    return f"{metric.axis}{value}" + (f" [dim]{notes}[/]" if notes else "")


def legend(state: RunState, width: int) -> str:
    """Return the legend of lines and marks that fits into `width` cells."""
    marks = [f"{EVAL_SIGN} eval", f"{BEST_SIGN} best"] if state.evaluations else []
    line = f"{SMOOTHED_SIGN} smoothed"
    return first_fitting([[f"{STEP_SIGN} step", line, *marks], [line, *marks], marks], width)


def readout(state: RunState, name: str, view: ChartView, width: int) -> str:
    """Return the values at the cursor: per step, smoothed, and of the nearest evaluation; "" without a cursor."""
    if view.cursor is None or (row := nearest_row(state, view.axis, view.cursor)) is None:
        return ""
    metric = registered(name)
    low, high = value_text(metric, row[LOW]), value_text(metric, row[HIGH])
    step_value = f"{low} to {high}" if low != high else low
    smoothed = value_text(metric, row[SMOOTHED])
    place = integer(int(row[STEP]))
    full_place = f"step {place}"
    if view.axis != "steps":
        full_place += f", {short(row[TOKENS])} tokens" if view.axis == "tokens" else f", {clock(row[ELAPSED])}"
    point = nearest_evaluation(state.evaluations, view.axis, view.cursor)
    eval_value = [f"{EVAL_SIGN} {value_text(metric, point.loss)}"] if point else []
    named = [f"{STEP_SIGN} {metric.axis} {step_value}", f"{SMOOTHED_SIGN} smoothed [b]{smoothed}[/b]"]
    if point:
        named.append(f"{EVAL_SIGN} eval {value_text(metric, point.loss)} at {integer(point.step)}")
    unnamed = [f"{STEP_SIGN} {step_value}", f"{SMOOTHED_SIGN} [b]{smoothed}[/b]", *eval_value]
    options = [[full_place, *named], [full_place, *unnamed], [place, *unnamed]]
    return first_fitting([*options, [place, *unnamed[1:]], [place, unnamed[1]]], width)


def nearest_evaluation(points: Sequence[Evaluation], axis: Axis, x: float) -> Evaluation | None:
    """Return the evaluation nearest to `x` on the axis, None if there is none."""
    return min(points, key=lambda point: abs(axis_value(point, axis) - x), default=None)


def first_fitting(options: Sequence[Sequence[str]], width: int) -> str:
    """Return the first option whose parts, joined by two spaces, fit into `width` cells; "" if none fits."""
    lines = ("  ".join(parts) for parts in options)
    return next((line for line in lines if Content.from_markup(line).cell_length <= width), "")
