"""The Train tab: charts and log on the left, numbers on the right, buttons below."""

from __future__ import annotations

from collections.abc import Set

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import ContentSwitcher

from gpt_tui.run_history import RunHistory
from gpt_tui.run_setup import Setup
from gpt_tui.run_status import Facts
from gpt_tui.widgets.controls import Controls
from gpt_tui.widgets.log_pane import LogPane
from gpt_tui.widgets.run_charts import RunCharts
from gpt_tui.widgets.status_panel import StatusPanel
from gpt_tui.widgets.welcome import Welcome

REDRAW_INTERVAL_S = 0.5


class TrainPane(Vertical):
    """Takes histories and facts, and hands them to its parts when these are to be redrawn."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._drawn_at_s = 0.0

    @property
    def charts(self) -> RunCharts:
        """The run's charts."""
        return self.query_one(RunCharts)

    def compose(self) -> ComposeResult:
        """Welcome or run, then the buttons."""
        with ContentSwitcher(initial="welcome", id="train-switcher"):
            yield Welcome(id="welcome")
            with Horizontal(id="run"):
                with Vertical(id="curves"):
                    yield RunCharts(id="charts")
                    yield LogPane(id="log")
                yield StatusPanel(id="status")
        yield Controls("train", id="controls")

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
        self.query_one(ContentSwitcher).current = "run"
        self.query_one(LogPane).show(history)
        if not at_once and facts.now_s - self._drawn_at_s < REDRAW_INTERVAL_S:
            return
        self._drawn_at_s = facts.now_s
        status = self.query_one(StatusPanel)
        status.facts = facts
        status.history = history
        self.charts.show(history)

    def allow(self, actions: Set[str], *, paused: bool) -> None:
        """Which buttons can be pressed."""
        self.query_one(Controls).allow(actions, paused=paused)
