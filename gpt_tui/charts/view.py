"""View of the charts: x axis, scales, visible range, cursor. Does not import Textual."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from gpt_tui.charts.series import Axis, Range

YRange = Literal["auto", "full", "tight"]
Option = TypeVar("Option")

AXES: tuple[Axis, ...] = get_args(Axis)
Y_RANGES: tuple[YRange, ...] = get_args(YRange)
MIN_SPAN = 1 / 4096  # of the full x range
MIN_REDRAW_S, MAX_REDRAW_S = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class ChartView:
    """View shared by the charts of a run.

    Attributes:
        axis: Quantity on the x axis.
        log: The y axis is logarithmic.
        span: Visible fraction of the full x range, 0 to 1.
        end: x value at the right edge; None follows the run.
        cursor: x value at which the charts are read, None without a cursor.
        y_range: "full" shows all values, "tight" cuts off the steep initial decrease, "auto" chooses by metric.
        baselines: Lines show the loss of guessing, of token frequencies and of compressors.
    """

    axis: Axis = "steps"
    log: bool = False
    span: float = 1.0
    end: float | None = None
    cursor: float | None = None
    y_range: YRange = "auto"
    baselines: bool = True

    def is_tight(self, metric: str) -> bool:
        """Return True if the y range cuts off the initial decrease; "auto" does for perplexity on a linear scale."""
        return self.y_range == "tight" or (self.y_range == "auto" and metric == "perplexity" and not self.log)

    def window(self, full: Range) -> Range:
        """Return the visible part of the full x range."""
        length = full.span * self.span
        high = full.high if self.end is None else min(max(self.end, full.low + length), full.high)
        return Range(max(full.low, high - length), high)

    def zoomed(self, factor: float, full: Range, around: float | None = None) -> ChartView:
        """Return the view with `factor` times the visible range; `around` (None: the right edge) keeps its place."""
        span = min(1.0, max(MIN_SPAN, self.span * factor))
        if span == 1.0:
            return replace(self, span=1.0, end=None)
        if around is None:
            return replace(self, span=span)
        window = self.window(full)
        right = around + (window.high - around) * span / self.span
        return replace(self, span=span, end=None if right >= full.high else right)

    def panned(self, fraction: float, full: Range) -> ChartView:
        """Return the view moved by a fraction of its visible range; at the right end it follows the run again."""
        if self.span == 1.0:
            return self
        window = self.window(full)
        right = max(window.high + fraction * window.span, full.low + window.span)
        return replace(self, end=None if right >= full.high else right)

    def reset(self) -> ChartView:
        """Return the view of the complete run."""
        return replace(self, span=1.0, end=None)

    def with_next_axis(self) -> ChartView:
        """Return the view with the next x axis: steps, tokens, time. Zoom and cursor are reset, as the unit changes."""
        return replace(self.reset(), axis=next_option(AXES, self.axis), cursor=None)

    def with_next_y_range(self) -> ChartView:
        """Return the view with the next y range: auto, full, tight."""
        return replace(self, y_range=next_option(Y_RANGES, self.y_range))

    def with_cursor_moved(self, fraction: float, full: Range) -> ChartView:
        """Return the view with the cursor moved by a fraction of the visible range, and kept inside it.

        Without a cursor, one appears at the right edge.
        """
        window = self.window(full)
        x = window.high if self.cursor is None else self.cursor + fraction * window.span
        return replace(self, cursor=min(max(x, window.low), window.high))

    def redraw_interval_s(self, elapsed_s: float) -> float:
        """Return the seconds between redraws of a run `elapsed_s` old: a 200th of the visible time, one or two dots."""
        return min(MAX_REDRAW_S, max(MIN_REDRAW_S, self.span * elapsed_s / 200))


def next_option(options: tuple[Option, ...], option: Option) -> Option:
    """Return the option after this one, cyclically."""
    return options[(options.index(option) + 1) % len(options)]
