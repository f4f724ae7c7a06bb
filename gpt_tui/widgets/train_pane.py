"""The Train tab: charts and log on the left, numbers on the right, buttons below."""

from __future__ import annotations

from collections.abc import Set

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.reactive import reactive
from textual.widgets import ContentSwitcher

from gpt_tui.chart_series import whole_range
from gpt_tui.chart_view import ChartView
from gpt_tui.run_history import RunHistory
from gpt_tui.run_setup import Setup
from gpt_tui.run_status import Facts
from gpt_tui.widgets.chart import Chart
from gpt_tui.widgets.controls import Controls
from gpt_tui.widgets.log_pane import LogPane
from gpt_tui.widgets.status_panel import StatusPanel
from gpt_tui.widgets.welcome import Welcome

REDRAW_INTERVAL_S = 0.5


class TrainPane(Vertical):
    """Takes histories and facts, and hands them to its parts when these are to be redrawn; both charts share a view."""

    view: reactive[ChartView] = reactive(ChartView)

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._history = RunHistory()
        self._drawn_at_s = 0.0

    def compose(self) -> ComposeResult:
        """Welcome or run, then the buttons."""
        with ContentSwitcher(initial="welcome", id="train-switcher"):
            yield Welcome(id="welcome")
            with Horizontal(id="run"):
                with Vertical(id="curves"):
                    yield Chart("loss", id="loss")
                    yield Chart("perplexity", id="perplexity")
                    yield LogPane(id="log")
                yield StatusPanel(id="status")
        yield Controls(id="controls")

    def show_setup(self, setup: Setup, keys: dict[str, str]) -> None:
        """What a start would train."""
        self.query_one(Welcome).show_setup(setup, keys)

    def show_opening(self, words: str, share: float) -> None:
        """The progress of getting ready."""
        self.query_one(ContentSwitcher).current = "welcome"
        self.query_one(Welcome).show_opening(words, share)

    def show_welcome(self) -> None:
        """No run to show."""
        self.query_one(ContentSwitcher).current = "welcome"

    def show_run(self, history: RunHistory, facts: Facts, *, at_once: bool) -> None:
        """The run as it is now; unless `at_once`, charts and numbers are redrawn no more than twice a second."""
        self._history = history
        self.query_one(ContentSwitcher).current = "run"
        self.query_one(LogPane).show(history)
        if not at_once and facts.now_s - self._drawn_at_s < REDRAW_INTERVAL_S:
            return
        self._drawn_at_s = facts.now_s
        status = self.query_one(StatusPanel)
        status.facts = facts
        status.history = history
        for chart in self.query(Chart):
            chart.history = history

    def allow(self, actions: Set[str], *, paused: bool) -> None:
        """Which buttons can be pressed."""
        self.query_one(Controls).allow(actions, paused=paused)

    def watch_view(self, view: ChartView) -> None:
        """Both charts follow."""
        for chart in self.query(Chart):
            chart.view = view

    @on(Chart.ViewWanted)
    def _chart_wants(self, message: Chart.ViewWanted) -> None:
        message.stop()
        self.view = message.view

    def zoom(self, factor: float) -> None:
        """Shows a shorter or longer part of the run."""
        self.view = self.view.zoomed(factor, whole_range(self._history, self.view.axis))

    def pan(self, share: float) -> None:
        """Shows an earlier or later part of the run."""
        self.view = self.view.panned(share, whole_range(self._history, self.view.axis))
