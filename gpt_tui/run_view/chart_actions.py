"""What the charts' keys do, on whichever tab the charts are."""

from __future__ import annotations

from dataclasses import replace

from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.shared.keymap import keys_of

CHART_ACTIONS = frozenset(key.action.partition("(")[0] for key in keys_of("charts"))


class ChartActions:
    """The actions of the key table's "charts" keys, for a screen that says which charts are seen."""

    @property
    def charts(self) -> RunCharts | None:
        """The charts of the tab that is shown, if it has any."""
        raise NotImplementedError

    def action_log_scale(self) -> None:
        """Logarithmic or linear."""
        if charts := self.charts:
            charts.view = replace(charts.view, log=not charts.view.log)

    def action_next_axis(self) -> None:
        """Steps, tokens, time."""
        if charts := self.charts:
            charts.view = charts.view.with_next_axis()

    def action_zoom(self, factor: float) -> None:
        """A shorter or longer part."""
        if charts := self.charts:
            charts.zoom(factor)

    def action_zoom_reset(self) -> None:
        """The whole run."""
        if charts := self.charts:
            charts.view = charts.view.reset()

    def action_pan(self, share: float) -> None:
        """An earlier or later part."""
        if charts := self.charts:
            charts.pan(share)

    def action_next_y_range(self) -> None:
        """More or less of the y axis."""
        if charts := self.charts:
            charts.view = charts.view.with_next_y_range()

    def action_cursor(self, columns: int) -> None:
        """The charts are read further left or right."""
        if charts := self.charts:
            charts.move_cursor(columns)

    def action_cursor_off(self) -> None:
        """The charts are read no more."""
        if charts := self.charts:
            charts.view = replace(charts.view, cursor=None)
