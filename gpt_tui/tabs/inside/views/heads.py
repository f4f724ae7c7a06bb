"""View Heads: a score of all attention heads at each evaluation, under the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from gpt_tui.charts.series import Range
from gpt_tui.session.stats_history import HEAD_SCORES, HeadsPoint
from gpt_tui.shared.formatting import fixed, integer, percent
from gpt_tui.shared.keymap import with_keys
from gpt_tui.shared.spans import Line, Span, joined, width_of
from gpt_tui.tabs.inside.views.history import (
    StatsHistory,
    axis_row,
    columns_of,
    cursor_column,
    history,
    loss_rows,
    point_at,
    steps_range,
)
from gpt_tui.tabs.inside.views.view import (
    Action,
    Continuation,
    Cursor,
    Extent,
    Frame,
    InsideView,
    Move,
    Removal,
    Task,
    moved,
)

ENTROPY = HEAD_SCORES.index("entropy")
NAMES = [name.replace("_", " ") for name in HEAD_SCORES]
LABEL, VALUE = 8, 8  # cells of the name of a head before its strip, and of its value after it
MAX_LOSS_ROWS, ROWS_PER_LOSS_ROW = 16, 5
MAX_STRIP_ROWS = 3  # height of a strip where there is room
LEGEND = (0.0, 0.25, 0.5, 0.75, 1.0)
NO_HEADS = "no scores: the context of the model or the text is too short for a sequence that repeats"


class HeadsView(InsideView[StatsHistory]):
    """A strip per head, with a column per evaluation."""

    name = "heads"
    title = "Heads"
    needs_text = False
    actions = frozenset({"enter", "remove"})

    def compute(self, task: Task) -> Iterator[StatsHistory]:
        """Yield the history of the heads."""
        yield history(task)

    def extent(self, result: StatsHistory, extent: Extent) -> Extent:
        """Return the layers and heads of the history."""
        if not result.run.heads:
            return extent
        _, layers, heads = result.run.heads[-1].scores.shape
        return extent._replace(layers=layers, heads=heads)

    def lines(self, result: StatsHistory, frame: Frame) -> Sequence[Line]:
        """Return the scores to choose from, the loss, the strips around the cursor, the axis, and the values there."""
        points, cursor, (width, height) = result.run.heads, frame.cursor, frame.size
        if not points:
            return [[Span(NO_HEADS, style="bad")]]
        x_range, strip_width = steps_range(result.run, points), max(4, width - LABEL - VALUE)
        at = selected(result, cursor)
        facts = fact_lines(result, cursor, width)
        room = height - 2 - len(facts)
        loss = loss_lines(result, x_range, strip_width, room, points[at].place.step)
        rows = max(1, room - len(loss))
        strips = strip_lines(result, cursor, x_range, strip_width, rows)
        axis = [Span(" " * LABEL), *axis_row(x_range, strip_width)]
        return [score_line(points, cursor, width, frame.keymap), *loss, *strips, axis, *facts][:height]

    def reads_text(self, result: StatsHistory) -> bool:
        """Return True if the text was read, because no log has the numbers."""
        return result.is_measured

    def moved(self, result: StatsHistory, frame: Frame, move: Move) -> Cursor:
        """Return the cursor: left and right are evaluations, up and down heads."""
        cursor, heads = frame.cursor, frame.extent.heads
        if move in ("up", "down"):
            number = cursor.layer * heads + cursor.head + (1 if move == "down" else -1)
            number = max(0, min(number, frame.extent.layers * heads - 1))
            return cursor._replace(layer=number // heads, head=number % heads)
        if move in ("previous_head", "next_head") or not result.run.heads:
            return moved(cursor, frame.extent, move)
        steps = [point.place.step for point in result.run.heads]
        by = {"left": -1, "right": 1, "page_up": -10, "page_down": 10, "home": -len(steps), "end": len(steps)}[move]
        return cursor._replace(step=steps[max(0, min(selected(result, cursor) + by, len(steps) - 1))])

    def act(self, result: StatsHistory, frame: Frame, action: Action) -> Cursor | Continuation | Removal | None:
        """Show the next score, or remove the head at the cursor."""
        if action != "enter":
            return super().act(result, frame, action)
        return frame.cursor._replace(score=(frame.cursor.score + 1) % len(NAMES))


def selected(result: StatsHistory, cursor: Cursor) -> int:
    """Return the number of the point at the cursor: that nearest to its step, or to the step of the model."""
    return point_at(result.run.heads, result.step if cursor.step is None else cursor.step)


def score_line(points: Sequence[HeadsPoint], cursor: Cursor, width: int, keymap: Mapping[str, str]) -> Line:
    """Return the scores, the shown one marked, and what the colors mean."""
    names: list[Span] = []
    for number, name in enumerate(NAMES):
        style = "title" if number == cursor.score else "muted"
        names.append(Span(f"{name}  ", style=style, at=cursor._replace(score=number)))  # type: ignore[arg-type]
    top = largest(points, cursor.score)
    legend = [Span(f" {value_text(cursor.score, level * top)} ", level) for level in LEGEND]
    key = Span(with_keys("{inside.enter}: next  ", keymap), style="muted")
    lines = [[*names, key, *legend], [*names, key, legend[0], legend[-1]], [*names, key]]
    return next((line for line in lines if width_of(line) <= width), names)


def loss_lines(result: StatsHistory, x_range: Range, width: int, room: int, step: int) -> list[Line]:
    """Return the loss over the same steps, in a part of the rows, or in half of those that the heads leave."""
    heads = result.run.heads[0].scores[0].size
    rows = min(MAX_LOSS_ROWS, max(room // ROWS_PER_LOSS_ROW, (room - heads) // 2))
    chart = loss_rows(result.run, x_range, width, rows, step)
    return [[Span(f"{'loss' if not row else '':<{LABEL}}", style="muted"), *line] for row, line in enumerate(chart)]


def strip_lines(result: StatsHistory, cursor: Cursor, x_range: Range, width: int, rows: int) -> list[Line]:
    """Return the strips of as many heads as there are rows, those around the cursor; higher ones if all fit."""
    points, at = result.run.heads, selected(result, cursor)
    values = np.stack([point.scores[cursor.score].reshape(-1) for point in points])  # (points, L·H)
    heads, count = points[0].scores.shape[2], values.shape[1]
    height = max(1, min(MAX_STRIP_ROWS, rows // count))
    rows = rows // height
    here = min(cursor.layer * heads + cursor.head, count - 1)
    first = max(0, min(here - rows // 2, count - rows))
    columns, top = columns_of(points, x_range, width), largest(points, cursor.score)
    lines: list[Line] = []
    for number in range(first, min(first + rows, count)):
        line = strip_line(points, values[:, number], (number // heads, number % heads), cursor, columns, top, at)
        lines += [line, *[[Span(" " * LABEL), *line[1:-1]]] * (height - 1)]
    return lines


def strip_line(
    points: Sequence[HeadsPoint], values: NDArray[np.float32], head: tuple[int, int], cursor: Cursor,
    columns: Sequence[int], top: float, at: int,
) -> Line:  # fmt: skip
    """Return the strip of one head: its name, a span per point that is shown, and the value at the cursor."""
    is_here = head == (cursor.layer, cursor.head)
    target = cursor._replace(layer=head[0], head=head[1])
    spans = [Span(f"{f'L{head[0]} H{head[1]}':<{LABEL}}", style="cursor" if is_here else "muted", at=target)]
    marked = cursor_column(columns, at)
    for point, cells in groupby(range(len(columns)), key=lambda column: columns[column]):
        text = "".join("│" if column == marked else " " for column in cells)
        if point < 0:
            spans.append(Span(text))
        else:
            spans.append(Span(text, float(values[point]) / top, at=target._replace(step=points[point].place.step)))
    return [*spans, Span(f"{value_text(cursor.score, float(values[at])):>{VALUE}}", style="bold" if is_here else "")]


def fact_lines(result: StatsHistory, cursor: Cursor, width: int) -> list[Line]:
    """Return all scores of the head at the cursor, and where an induction head appeared."""
    point = result.run.heads[selected(result, cursor)]
    layers, heads = point.scores.shape[1:]
    layer, head = min(cursor.layer, layers - 1), min(cursor.head, heads - 1)
    scores = point.scores[:, layer, head]
    parts = [f"{name} {value_text(number, float(scores[number]))}" for number, name in enumerate(NAMES)]
    where = f"step {integer(point.place.step)}, layer {layer}, head {head}:"
    lines: list[Line] = [[Span(line)] for line in joined([f"{where} {parts[0]}", *parts[1:]], width)]
    found = result.run.induction
    if found is not None:
        text = f"┊ first induction head: layer {found.layer}, head {found.head}, at step {integer(found.place.step)}"
        lines.append([Span(text, style="good")])
    elif result.is_measured:
        lines.append([Span("measured on this text: there is no log of these heads", style="muted")])
    return lines


def largest(points: Sequence[HeadsPoint], score: int) -> float:
    """Return the value of the last color: 1 for a share, the largest entropy of the history."""
    if score != ENTROPY:
        return 1.0
    found = float(np.nanmax([np.nanmax(point.scores[score], initial=0.0) for point in points]))
    return found if found > 0 else 1.0


def value_text(score: int, value: float) -> str:
    """Format a score: a share in percent, an entropy in nats."""
    if np.isnan(value):
        return "–"
    return f"{fixed(value, 2)}" if score == ENTROPY else percent(value)
