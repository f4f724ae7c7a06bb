"""Keys of the charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Vertical

from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.keymap import keys_of
from gpt_tui.shared.new_files import write_new
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.svg_converter import as_png

CHART_ACTIONS = frozenset(key.action.partition("(")[0] for key in keys_of("charts"))


class ChartKeys(Vertical, can_focus=True):
    """Container in which the chart keys work, whichever of its descendants has the focus.

    Takes the focus itself where a tab has no other widget to focus.

    Args:
        find_charts: Returns the visible charts, None where there are none; the keys are hidden then.
        find_export: Returns the charts of a run and the folder for its exports, None without a run.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("charts")

    def __init__(
        self, find_charts: Callable[[], RunCharts | None], find_export: Callable[[], tuple[RunCharts, Path] | None], *,
        id: str,
    ) -> None:  # fmt: skip
        super().__init__(id=id)
        self._find_charts = find_charts
        self._find_export = find_export

    def watch_has_focus(self, _has_focus: bool) -> None:
        """Skip the style update: no style depends on this focus, and the update covers all descendants."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the chart keys where no charts are visible."""
        if action == "export":
            return self._find_export() is not None
        return action not in CHART_ACTIONS or self._find_charts() is not None

    def action_export(self) -> None:
        """Write charts and samples into the run's folder, in a thread."""
        if found := self._find_export():
            charts, folder = found
            if files := charts.exported():
                self.run_worker(partial(self._export, folder, files), thread=True, exit_on_error=False)
            else:
                self.notify("nothing to export yet: there is no step", markup=False)

    def _export(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write the files, and notify the user of their paths. Runs in a thread."""
        try:
            paths = write_new(folder, files)
        except OSError as error:
            text = f"{folder}: {error.strerror or error}"
            self.app.call_from_thread(self.notify, one_line(text), title="not exported", severity="error", markup=False)
            return
        paths += [png for path in paths if path.suffix == ".svg" and (png := as_png(path)) is not None]
        names = ", ".join(sorted(path.name for path in paths))
        self.app.call_from_thread(
            self.notify, one_line(f"{names} in {folder}"), title="exported", timeout=10, markup=False
        )

    def action_log_scale(self) -> None:
        """Switch between logarithmic and linear y axis."""
        if charts := self._find_charts():
            charts.view = replace(charts.view, log=not charts.view.log)

    def action_next_axis(self) -> None:
        """Switch the x axis: steps, tokens, time."""
        if charts := self._find_charts():
            charts.view = charts.view.with_next_axis()

    def action_next_y_range(self) -> None:
        """Switch the range of the y axis."""
        if charts := self._find_charts():
            charts.view = charts.view.with_next_y_range()

    def action_toggle_baselines(self) -> None:
        """Show or hide the lines of the baselines."""
        if charts := self._find_charts():
            charts.view = replace(charts.view, baselines=not charts.view.baselines)

    def action_next_metric(self) -> None:
        """Choose the next metric of the second chart, or of a comparison."""
        if charts := self._find_charts():
            charts.next_metric()

    def action_zoom(self, factor: float) -> None:
        """Zoom the x axis: the visible span times `factor`."""
        if charts := self._find_charts():
            charts.zoom(factor)

    def action_zoom_reset(self) -> None:
        """Show the complete run."""
        if charts := self._find_charts():
            charts.view = charts.view.reset()

    def action_pan(self, fraction: float) -> None:
        """Pan by a fraction of the visible span."""
        if charts := self._find_charts():
            charts.pan(fraction)

    def action_cursor(self, columns: int) -> None:
        """Move the cursor by columns."""
        if charts := self._find_charts():
            charts.move_cursor(columns)

    def action_cursor_off(self) -> None:
        """Remove the cursor."""
        if charts := self._find_charts():
            charts.view = replace(charts.view, cursor=None)
