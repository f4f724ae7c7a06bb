"""Details of one run from its log: charts, samples or log, and status."""

from __future__ import annotations

import time
from typing import Literal, get_args

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.reactive import reactive

from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.charts.series import nearest_row
from gpt_tui.run_view.log_panel import LogPanel
from gpt_tui.run_view.samples_panel import SamplesPanel
from gpt_tui.run_view.status_panel import StatusPanel
from gpt_tui.session.curve import STEP
from gpt_tui.session.run_finder import RunInfo
from gpt_tui.session.run_state import RunState, Sample
from gpt_tui.shared.rows import Row
from gpt_tui.tabs.runs.presenter import log_rows

Panels = Literal["samples", "log", "none"]
PANELS: tuple[Panels, ...] = get_args(Panels)


class LogStatus(StatusPanel):
    """Status rows of a run known by its log."""

    info: reactive[RunInfo | None] = reactive(None)

    def rows(self) -> list[Row]:
        """Return the rows, most important first."""
        return log_rows(self.info, self.state, time.time(), self.size.width) if self.info else []


class RunDetail(Horizontal):
    """Charts and status of one run; below the charts the samples, the log or neither."""

    panels: reactive[Panels] = reactive("samples")

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._history = RunState()

    @property
    def charts(self) -> RunCharts:
        """The run's charts."""
        return self.query_one(RunCharts)

    def compose(self) -> ComposeResult:
        """Lay out charts above samples or log, and the status."""
        with Vertical(id="runs-curves"):
            yield RunCharts(id="runs-charts")
            yield SamplesPanel(id="runs-samples")
            yield LogPanel(id="runs-log")
        yield LogStatus(id="runs-status")

    def on_mount(self) -> None:
        """Set the titles."""
        self.query_one(SamplesPanel).border_title = "samples"
        self.query_one(LogPanel).border_title = "log"

    def show(self, run: RunInfo, history: RunState) -> None:
        """Show the run as read so far."""
        self._history = history
        self.charts.show(history)
        samples = self.query_one(SamplesPanel)
        samples.show(history)
        if self.charts.view.cursor is not None:  # it remains where it is for another run, and while a log is read
            samples.point_at(self.pointed_step)
        self.query_one(LogPanel).show(history)
        status = self.query_one(LogStatus)
        status.state = history
        status.info = run
        status.refresh()  # the age of the log, also of the same run

    def switch_panels(self) -> None:
        """Switch between samples, log and neither."""
        self.panels = PANELS[(PANELS.index(self.panels) + 1) % len(PANELS)]

    def watch_panels(self, panels: Panels) -> None:
        """Update the visibility of samples and log."""
        self.query_one(SamplesPanel).display = panels == "samples"
        self.query_one(LogPanel).display = panels == "log"

    @property
    def pointed_step(self) -> int | None:
        """Step at the cursor of the charts, None without one."""
        view = self.charts.view
        row = None if view.cursor is None else nearest_row(self._history, view.axis, view.cursor)
        return int(row[STEP]) if row else None

    @property
    def current_sample(self) -> Sample | None:
        """The sample at the cursor of the charts, or that the panel shows first; None without one."""
        return self.query_one(SamplesPanel).current

    @on(RunCharts.Pointed)
    def _point_at(self, message: RunCharts.Pointed) -> None:
        """Scroll the samples to the charts' cursor."""
        message.stop()
        row = nearest_row(self._history, message.axis, message.x) if message.x is not None else None
        self.query_one(SamplesPanel).point_at(row[STEP] if row else None)
