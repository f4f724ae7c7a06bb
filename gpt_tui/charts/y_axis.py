"""The y axis of a chart: its round numbers, their labels, and how wide these are. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gpt_tui.charts.series import Plane
from gpt_tui.charts.ticks import linear_ticks, log_ticks, tick_labels

ROWS_A_TICK = 2


class Scale(NamedTuple):
    """Where the lines of the grid are, in units of y, and what is written beside each."""

    ticks: list[float]
    labels: list[str]

    @property
    def width(self) -> int:
        """Columns of the widest label; charts above each other all take the widest of theirs."""
        return max((len(label) for label in self.labels), default=0)


def y_scale(plane: Plane, rows: int) -> Scale:
    """The scale of a field that is so many rows high."""
    find = log_ticks if plane.log else linear_ticks
    ticks = find(*plane.y_range, max(1, -(-rows // ROWS_A_TICK)))
    return Scale(ticks, tick_labels(ticks))
