"""History of a model's statistics: from the run in progress, the log of a checkpoint, or measured on these weights."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gpt_core import interpret
from gpt_core.training.events import HealthMeasured
from gpt_core.training.model_stats import MIN_SEQ_LEN, heads_event, logged
from gpt_tui.charts.axes import linear_ticks, tick_labels
from gpt_tui.charts.raster import (
    BEST,
    CURSOR,
    EVAL,
    EVAL_LINE,
    INDUCTION,
    READ,
    SMOOTHED,
    Raster,
    column_of,
    raster,
)
from gpt_tui.charts.series import Range, chart_series, full_range, nonempty
from gpt_tui.session.inside.subject import Subject
from gpt_tui.session.run_state import RunState
from gpt_tui.session.stats_history import HeadsPoint, HealthPoint, Place, heads_point, health_point
from gpt_tui.shared.spans import Line, Span, SpanStyle
from gpt_tui.tabs.inside.views.view import Task

LAYER_STYLES: dict[int, SpanStyle] = {
    SMOOTHED: "title", EVAL: "mark", EVAL_LINE: "mark", BEST: "mark", INDUCTION: "good", CURSOR: "bold", READ: "bold",
}  # fmt: skip
COLUMNS_PER_TICK = 10


class StatsHistory(NamedTuple):
    """Statistics of a model over its run.

    Attributes:
        run: State of the run, which holds them; of one point if only these weights are known.
        step: Step of the model.
        is_measured: True if the statistics were measured now, on these weights alone.
    """

    run: RunState
    step: int
    is_measured: bool


def history(task: Task) -> StatsHistory:
    """Return the history of the model of a task.

    Raises:
        GptError: The log cannot be read, or the model has too short a context.
    """
    subject, origin = task.subject, task.origin
    run: RunState | None = task.run if origin.is_live else None
    if run is None and origin.path is not None:
        run = task.histories.of(origin.path, origin.step, lambda: subject.progress("reading the log of the run", 0.0))
    run = run or RunState()
    if run.heads and run.health:
        return StatsHistory(run, origin.step, False)
    subject.progress("measuring heads and weights", 0.0)
    place = Place(origin.step, 0, 0.0)
    heads, health = measured_heads(subject, place), measured_health(subject, place)
    return StatsHistory(replace(run, heads=heads, health=(health,)), origin.step, True)


def measured_heads(subject: Subject, place: Place) -> tuple[HeadsPoint, ...]:
    """Return the scores of the heads on the text, none if it or the context is too short."""
    if subject.gpt.shape.seq_len < MIN_SEQ_LEN or len(subject.ids) < 2:
        return ()
    scores = interpret.head_scores(subject.gpt, subject.batch, subject.repeated())
    return (heads_point(place, heads_event(place.step, scores)),)


def measured_health(subject: Subject, place: Place) -> HealthPoint:
    """Return the norms of the weights, and the units that never fire on the text."""
    stats = interpret.weight_stats(subject.gpt.parameters)
    unknown = (None,) * len(stats)
    dead = tuple(interpret.dead_units(subject.gpt, subject.batch).tolist())
    norms = tuple(logged(found.norm) for found in stats)
    names = tuple(found.name for found in stats)
    return health_point(place, HealthMeasured(place.step, names, norms, unknown, unknown, dead))


# ---- the axis of steps


def steps_range(run: RunState, points: Sequence[HeadsPoint | HealthPoint]) -> Range:
    """Return the range of steps of a run and of points."""
    steps = [float(point.place.step) for point in points]
    if not len(run.curve.recent):
        return nonempty(min(steps, default=0.0), max(steps, default=1.0))
    full = full_range(run, "steps")
    return nonempty(min([full.low, *steps]), max([full.high, *steps]))


def point_at(points: Sequence[HeadsPoint | HealthPoint], step: int) -> int:
    """Return the number of the point nearest to a step."""
    return min(range(len(points)), key=lambda number: abs(points[number].place.step - step))


def columns_of(points: Sequence[HeadsPoint | HealthPoint], x_range: Range, width: int) -> list[int]:
    """Return the number of the point that each column shows: the last one up to its right edge; -1 before the first."""
    starts = [column_of(float(point.place.step), x_range, width) for point in points]
    found = np.full(width, -1)
    for number, start in enumerate(starts):
        found[start:] = number
    return [int(number) for number in found]


def cursor_column(columns: Sequence[int], at: int) -> int:
    """Return the first column that shows a point, or the one whose later point hides it; `columns_of` made them."""
    return bisect_left(columns, at)


def loss_rows(run: RunState, x_range: Range, width: int, rows: int, step: int) -> list[Line]:
    """Return the curve of the loss with the cursor; nothing without a step, or without room."""
    series = chart_series(run, "train_loss", "steps", columns=2 * width, window=x_range) if rows > 0 else None
    if series is None or not len(run.curve.recent):
        return []
    return picture_rows(raster(series, width, rows, cursor=float(step)))


def picture_rows(picture: Raster) -> list[Line]:
    """Return a drawn chart as lines."""
    return [
        [Span(text, style=LAYER_STYLES.get(layer, "muted")) for text, layer in picture.runs(row)]
        for row in range(len(picture.characters))
    ]


def axis_row(x_range: Range, width: int) -> Line:
    """Return the labels of the steps."""
    ticks = linear_ticks(x_range.low, x_range.high, max(1, width // COLUMNS_PER_TICK), min_step=1.0)
    line, free = [" "] * width, 0
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        start = min(max(column_of(tick, x_range, width) - len(label) // 2, 0), width - len(label))
        if start >= free:
            line[start : start + len(label)] = label
            free = start + len(label) + 1
    return [Span("".join(line), style="muted")]
