"""Text on a chart's border, as markup: title, legend, readout at the cursor. Imports only the markup of Textual."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from textual.content import Content

from gpt_core.training.events import EvalCompleted
from gpt_core.training.metrics import Metric
from gpt_core.training.metrics import metric as registered
from gpt_tui.charts.raster import ABOVE_CHARACTER, BEST_CHARACTER, EVAL_CHARACTER, INDUCTION_CHARACTER
from gpt_tui.charts.series import (
    LOSS_NAMES,
    Axis,
    axis_value,
    curve_of,
    is_averaged,
    is_evaluated,
    nearest_point,
    nearest_row,
    shares_evaluations,
)  # fmt: skip
from gpt_tui.charts.view import ChartView
from gpt_tui.session.curve import ELAPSED, HIGH, LOW, SMOOTHED, STEP, TOKENS
from gpt_tui.session.run_state import Evaluation, RunState, latest_value
from gpt_tui.shared.formatting import clock, integer, metric_value, short

STEP_SIGN, SMOOTHED_SIGN = "[$faint]⣿[/]", "[$primary]⠒⠒[/]"
EVAL_SIGN, BEST_SIGN = "[$mark]⠐⠶⠂[/]", f"[$best]{BEST_CHARACTER}[/]"
INDUCTION_SIGN = f"[$best]{INDUCTION_CHARACTER}[/]"
EVAL_MARK = f"[$mark]{EVAL_CHARACTER}[/]"


def value_text(metric: Metric, value: float) -> str:
    """Format a value, before the transform of its metric, without the unit."""
    return metric_value(metric, metric.transform(value) if metric.transform else value, unit=False)


def title(state: RunState, name: str, view: ChartView, *, max_above: float | None = None) -> str:
    """Return name, unit and latest value, and what differs from the default view.

    Args:
        state: The run.
        name: The metric.
        view: The view of the chart.
        max_above: Largest value above the y range, None if all are in it.
    """
    metric = registered(name)
    latest = latest_value(state, metric)
    value = "" if latest is None or isnan(latest) else f" [b]{metric_value(metric, latest, unit=False)}[/b]"
    named_unit = f" {metric.unit}" if value and metric.unit and not shares_evaluations(metric) else ""
    y_range = "" if view.y_range == "auto" else view.y_range
    zoomed = "zoomed" if view.span < 1 else ""
    above = "" if max_above is None else f"{ABOVE_CHARACTER} up to {metric_value(metric, max_above, unit=False)}"
    notes = ", ".join(note for note in ("log scale" * view.log, y_range, zoomed, above) if note)
    return f"{metric.label}{value}{named_unit}" + (f" [dim]{notes}[/]" if notes else "")


def legend(state: RunState, name: str, width: int) -> str:
    """Return the legend of lines and marks that fits into `width` cells."""
    metric = registered(name)
    if metric.event is EvalCompleted:
        return ""
    if not shares_evaluations(metric):
        averaged = [f"{STEP_SIGN} step", f"{SMOOTHED_SIGN} smoothed"] if is_averaged(metric) else []
        return first_fitting([averaged, averaged[1:]], width)
    names = LOSS_NAMES[name]
    best = f"{BEST_SIGN} best {state.best_metric}"
    found = [f"{INDUCTION_SIGN} induction head"] if state.induction is not None else []
    marks = [f"{EVAL_SIGN} {names.eval}", best, *found] if state.evaluations else found
    step, line = f"{STEP_SIGN} {names.step}", f"{SMOOTHED_SIGN} {names.train}"
    brief = [f"{SMOOTHED_SIGN} train", *(mark.replace(names.eval, "eval") for mark in marks)]
    options = [[step, f"{line} (smoothed)", *marks], [step, line, *marks], [line, *marks], brief, marks]
    return first_fitting(options, width)


def readout(state: RunState, name: str, view: ChartView, width: int) -> str:
    """Return the values at the cursor: per step, smoothed, and of the nearest evaluation; "" without a cursor."""
    if view.cursor is None or (row := nearest_row(state, view.axis, view.cursor)) is None:
        return ""
    metric = registered(name)
    place = integer(int(row[STEP]))
    full_place = f"step {place}"
    if view.axis != "steps":
        full_place += f", {short(row[TOKENS])} tokens" if view.axis == "tokens" else f", {clock(row[ELAPSED])}"
    if metric.event is EvalCompleted or not shares_evaluations(metric):
        named, unnamed = _values_at(state, metric, view.axis, view.cursor)
    else:
        named, unnamed = _losses_at(state, metric, view.axis, view.cursor, row)
    options = [[full_place, *named], [full_place, *unnamed], [place, *unnamed]]
    return first_fitting([*options, [place, *unnamed[1:]], [place, *unnamed[1:2]]], width)


def _losses_at(
    state: RunState, metric: Metric, axis: Axis, x: float, row: Sequence[float]
) -> tuple[list[str], list[str]]:
    """Return step, train and eval value at `x`, with their names and without."""
    names = LOSS_NAMES[metric.name]
    low, high = value_text(metric, row[LOW]), value_text(metric, row[HIGH])
    step_value = f"{low} to {high}" if low != high else low
    smoothed = value_text(metric, row[SMOOTHED])
    point = nearest_evaluation(state.evaluations, axis, x)
    eval_value = [f"{EVAL_MARK} {value_text(metric, point.loss)}"] if point else []
    named = [f"{STEP_SIGN} {names.step} {step_value}", f"{SMOOTHED_SIGN} {names.train} [b]{smoothed}[/b]"]
    if point:
        named.append(f"{EVAL_MARK} {names.eval} {value_text(metric, point.loss)} at {integer(point.step)}")
    return named, [f"{STEP_SIGN} {step_value}", f"{SMOOTHED_SIGN} [b]{smoothed}[/b]", *eval_value]


def _values_at(state: RunState, metric: Metric, axis: Axis, x: float) -> tuple[list[str], list[str]]:
    """Return the value of a metric that is no function of the loss at `x`, with names and without."""
    if is_evaluated(metric):
        point = nearest_evaluation(state.evaluations, axis, x)
        if point is None:
            return [], []
        value = f"[b]{value_text(metric, metric.read(point))}[/b]"
        return [f"{EVAL_MARK} {metric.label} {value} at {integer(point.step)}"], [f"{EVAL_MARK} {value}"]
    row = nearest_point(curve_of(state, metric), axis, x)
    if row is None:
        return [], []
    low, high = value_text(metric, row[LOW]), value_text(metric, row[HIGH])
    value = f"[b]{low} to {high}[/b]" if low != high else f"[b]{low}[/b]"
    if not is_averaged(metric):
        return [f"{SMOOTHED_SIGN} {metric.label} {value}"], [f"{SMOOTHED_SIGN} {value}"]
    smoothed = f"{SMOOTHED_SIGN} smoothed {value_text(metric, row[SMOOTHED])}"
    return [f"{STEP_SIGN} {metric.label} {value}", smoothed], [f"{STEP_SIGN} {value}", smoothed]


def nearest_evaluation(points: Sequence[Evaluation], axis: Axis, x: float) -> Evaluation | None:
    """Return the evaluation nearest to `x` on the axis, None if there is none."""
    return min(points, key=lambda point: abs(axis_value(point, axis) - x), default=None)


def first_fitting(options: Sequence[Sequence[str]], width: int) -> str:
    """Return the first option whose parts, joined by two spaces, fit into `width` cells; "" if none fits."""
    lines = ("  ".join(parts) for parts in options)
    return next((line for line in lines if Content.from_markup(line).cell_length <= width), "")
