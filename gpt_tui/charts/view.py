"""How the charts are looked at: which axis, which scale, which part. One frozen value that both charts share. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from gpt_tui.charts.series import Axis, Metric, Range

Reach = Literal["suited", "all", "close"]
Choice = TypeVar("Choice")

AXES: tuple[Axis, ...] = get_args(Axis)
REACHES: tuple[Reach, ...] = get_args(Reach)
MOST_ZOOM = 1 / 4096  # of the whole run
LEAST_REDRAW_S, MOST_REDRAW_S = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class ChartView:
    """`span` is the shown part of the whole x axis (1: all of it), `end` the x value at its right edge.

    `end` None follows the run: the newest point is at the right edge. `cursor` is the x value that is read out.
    `reach` is how much the y axis shows: all values, a close-up that lets the first fall leave at the top, or what
    suits the metric.
    """

    axis: Axis = "steps"
    log: bool = False
    span: float = 1.0
    end: float | None = None
    cursor: float | None = None
    reach: Reach = "suited"

    def is_close(self, metric: Metric) -> bool:
        """Whether the y axis is a close-up: a perplexity suits that, unless it is drawn on a log scale."""
        return self.reach == "close" or (self.reach == "suited" and metric == "perplexity" and not self.log)

    def window(self, whole: Range) -> Range:
        """The part of the x axis that is shown, inside `whole`."""
        length = whole.span * self.span
        high = whole.high if self.end is None else min(max(self.end, whole.low + length), whole.high)
        return Range(max(whole.low, high - length), high)

    def zoomed(self, factor: float, whole: Range, around: float | None = None) -> ChartView:
        """The part is `factor` times as long; the x value `around` (the right edge if None) stays where it is."""
        span = min(1.0, max(MOST_ZOOM, self.span * factor))
        if span == 1.0:
            return replace(self, span=1.0, end=None)
        if around is None:
            return replace(self, span=span)
        window = self.window(whole)
        right = around + (window.high - around) * span / self.span
        return replace(self, span=span, end=None if right >= whole.high else right)

    def panned(self, share: float, whole: Range) -> ChartView:
        """Moved by a share of its length; at the right end it follows the run again."""
        if self.span == 1.0:
            return self
        window = self.window(whole)
        right = max(window.high + share * window.span, whole.low + window.span)
        return replace(self, end=None if right >= whole.high else right)

    def reset(self) -> ChartView:
        """The whole run again."""
        return replace(self, span=1.0, end=None)

    def with_next_axis(self) -> ChartView:
        """Steps, then tokens, then time; the part shown is in other units then, so it is the whole again."""
        return replace(self.reset(), axis=following(AXES, self.axis), cursor=None)

    def with_next_reach(self) -> ChartView:
        """Another part of the y axis."""
        return replace(self, reach=following(REACHES, self.reach))

    def with_cursor_moved(self, share: float, whole: Range) -> ChartView:
        """The cursor is moved by a share of the part shown and stays inside it; it comes from the right edge."""
        window = self.window(whole)
        x = window.high if self.cursor is None else self.cursor + share * window.span
        return replace(self, cursor=min(max(x, window.low), window.high))

    def redraw_interval_s(self, elapsed_s: float) -> float:
        """Seconds until the curve of a run of that age has something new: a 200th of what is seen, a dot or two."""
        return min(MOST_REDRAW_S, max(LEAST_REDRAW_S, self.span * elapsed_s / 200))


def following(choices: tuple[Choice, ...], choice: Choice) -> Choice:
    """The one after this, round and round."""
    return choices[(choices.index(choice) + 1) % len(choices)]
