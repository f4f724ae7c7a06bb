"""One run, known by its log: charts, samples or what happened, and its status."""

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
from gpt_tui.run_view.status import Row
from gpt_tui.run_view.status_panel import StatusPanel
from gpt_tui.session.curve import STEP
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.runs.presenter import log_rows
from gpt_tui.tabs.runs.run_finder import RunLog

Notes = Literal["samples", "log", "none"]
NOTES: tuple[Notes, ...] = get_args(Notes)


class LogStatus(StatusPanel):
    """The rows of a run that another process trains, or has trained."""

    run_log: reactive[RunLog | None] = reactive(None)

    def rows(self) -> list[Row]:
        """What there is to say, most important first."""
        return log_rows(self.run_log, self.history, time.time(), self.size.width) if self.run_log else []


class RunDetail(Horizontal):
    """Takes a run and its history, and hands them to its parts. Under the charts: samples, log or neither."""

    notes: reactive[Notes] = reactive("samples")

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._history = RunState()

    @property
    def charts(self) -> RunCharts:
        """The run's charts."""
        return self.query_one(RunCharts)

    def compose(self) -> ComposeResult:
        """Charts over samples or log, status beside them."""
        with Vertical(id="runs-curves"):
            yield RunCharts(id="runs-charts")
            yield SamplesPanel(id="runs-samples")
            yield LogPanel(id="runs-log")
        yield LogStatus(id="runs-status")

    def on_mount(self) -> None:
        """Names."""
        self.query_one(SamplesPanel).border_title = "samples"
        self.query_one(LogPanel).border_title = "log"

    def show(self, run: RunLog, history: RunState) -> None:
        """The run as it is now."""
        self._history = history
        self.charts.show(history)
        self.query_one(SamplesPanel).show(history)
        self.query_one(LogPanel).show(history)
        status = self.query_one(LogStatus)
        status.history = history
        status.run_log = run

    def switch_notes(self) -> None:
        """Samples, log, more room for the charts."""
        self.notes = NOTES[(NOTES.index(self.notes) + 1) % len(NOTES)]

    def watch_notes(self, notes: Notes) -> None:
        """One of them is seen, or none."""
        self.query_one(SamplesPanel).display = notes == "samples"
        self.query_one(LogPanel).display = notes == "log"

    @on(RunCharts.Pointed)
    def _point_at(self, message: RunCharts.Pointed) -> None:
        """The samples follow the charts' cursor."""
        message.stop()
        row = nearest_row(self._history, message.axis, message.x) if message.x is not None else None
        self.query_one(SamplesPanel).point_at(row[STEP] if row else None)
