"""Baselines on a chart: horizontal lines with labels, drawn where nothing else is. Does not import Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpt_core.training.events import BaselinesMeasured
from gpt_core.training.metrics import metric
from gpt_tui.charts.raster import BASELINE, DOTS_Y, EMPTY, GRID, Raster, row_of
from gpt_tui.charts.series import Plane
from gpt_tui.session.baseline_text import baselines_of
from gpt_tui.shared.formatting import metric_value

LINE_CHARACTERS = "⠉⠒⠤⣀"  # by the row of the line's dots in the cell
DASH_COLUMNS = 2  # columns per dash
BELOW_SIGN = "▼"  # before a baseline below the range
MARGIN = 1  # free columns on each side of a label


class ChartBaseline(NamedTuple):
    """Horizontal line of a chart: its label, such as `guessing 8.030`, and its y value."""

    label: str
    y: float


def chart_baselines(event: BaselinesMeasured | None, name: str) -> list[ChartBaseline]:
    """Return the baselines on the chart of a metric; none on charts of other quantities.

    Args:
        event: The baselines of the run, None if they are unknown.
        name: The metric.
    """
    if event is None or name not in ("train_loss", "perplexity", "bits_per_byte"):
        return []
    shown, lines = metric(name), []
    for baseline in baselines_of(event):
        y = baseline.bits_per_byte if name == "bits_per_byte" else baseline.nats_per_token
        y = shown.transform(y) if shown.transform else y
        lines.append(ChartBaseline(f"{baseline.name} {metric_value(shown, y, unit=False)}", y))
    return lines


def draw_baselines(picture: Raster, plane: Plane, baselines: Sequence[ChartBaseline]) -> None:
    """Draw the lines of the baselines inside the y range, and a label for the nearest one below it.

    Lines and labels replace only empty characters and the grid. A label is at the right end of its line, or further
    left where that is taken; a line without room for its label is not drawn. No chart is crowded by them.

    Args:
        picture: The chart with its curves and marks.
        plane: Its coordinate system.
        baselines: The baselines.
    """
    rows = len(picture.characters)
    free = (picture.layers == EMPTY) | (picture.layers == GRID)
    below: list[tuple[float, ChartBaseline]] = []
    for baseline in baselines:
        position = float(row_of(baseline.y, plane.y_range, rows, plane.log))
        if position >= rows:
            below.append((position, baseline))
        elif position >= 0:
            row = int(position)
            dots = min(DOTS_Y - 1, int((position - row) * DOTS_Y))
            _write(picture, free[row].tolist(), row, baseline.label, LINE_CHARACTERS[dots])
    if below:
        _write(picture, free[-1].tolist(), rows - 1, f"{BELOW_SIGN} {min(below)[1].label}", "")


def _write(picture: Raster, free: list[bool], row: int, label: str, line: str) -> None:
    """Write a label, and a dashed line of this character, into the free columns of a row that has no other label."""
    taken = picture.layers[row] == BASELINE
    start = _last_fit(free, len(label) + 2 * MARGIN)
    if start < 0 or taken.any():
        return
    for column in range(0, len(free), DASH_COLUMNS):
        if line and free[column]:
            picture.characters[row, column], picture.layers[row, column] = ord(line), BASELINE
    for column, character in enumerate(f"{' ' * MARGIN}{label}{' ' * MARGIN}", start):
        picture.characters[row, column] = ord(character)
        picture.layers[row, column] = EMPTY if character == " " else BASELINE


def _last_fit(free: list[bool], length: int) -> int:
    """Return the last column at which `length` free columns begin, -1 if there is none."""
    run = 0
    for column in range(len(free) - 1, -1, -1):
        run = run + 1 if free[column] else 0
        if run == length:
            return column
    return -1
