"""The Train tab: charts, samples, log and numbers, buttons below. Where each is, the styles say for each size."""

from __future__ import annotations

from collections.abc import Set

from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.widgets import ContentSwitcher

from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.charts.series import nearest_row
from gpt_tui.charts.view import MIN_REDRAW_S
from gpt_tui.run_view.log_panel import LogPanel
from gpt_tui.run_view.samples_panel import SamplesPanel
from gpt_tui.run_view.status import Phase, SessionFacts
from gpt_tui.run_view.status_panel import StatusPanel
from gpt_tui.session.curve import STEP
from gpt_tui.session.run_preview import Setup
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.button_row import ButtonRow
from gpt_tui.shared.keymap import KEYS, shown_key
from gpt_tui.tabs.train.layout import Notes, next_notes, notes_title
from gpt_tui.tabs.train.welcome import Welcome

SWITCH_KEY = next(key for key in KEYS if key.id == "samples.switch")


class TrainTab(Vertical):
    """Takes histories and facts, and hands them to its parts when these are to be redrawn."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._numbers_drawn_s = self._charts_drawn_s = 0.0
        self._history = RunState()
        self._notes: Notes = "samples"

    @property
    def shows_charts(self) -> bool:
        """Whether the charts are seen: not where the samples are alone."""
        return self._notes != "alone"

    @property
    def charts(self) -> RunCharts:
        """The run's charts."""
        return self.query_one(RunCharts)

    def compose(self) -> ComposeResult:
        """Welcome or run, then the buttons."""
        with ContentSwitcher(initial="welcome", id="train-switcher"):
            yield Welcome(id="welcome")
            with Container(id="run"):
                yield RunCharts(id="charts")
                yield StatusPanel(id="status")
                yield SamplesPanel(id="samples")
                yield LogPanel(id="log")
        yield ButtonRow("train", id="controls")

    def on_resize(self) -> None:
        """Another size may have room for the log beside the samples."""
        self._name_notes()

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

    def show_run(self, history: RunState, facts: SessionFacts, *, at_once: bool) -> None:
        """The run as it is now; unless `at_once`, numbers twice a second, the charts of a long run less often."""
        self.query_one(ContentSwitcher).current = "run"
        self._history = history
        self.query_one(LogPanel).show(history)
        self.query_one(SamplesPanel).show(history)
        if at_once or facts.now_s - self._numbers_drawn_s >= MIN_REDRAW_S:
            self._numbers_drawn_s = facts.now_s
            status = self.query_one(StatusPanel)
            status.facts = facts
            status.history = history
        training = facts.phase is Phase.TRAINING
        interval_s = self.charts.view.redraw_interval_s(history.elapsed_s) if training else MIN_REDRAW_S
        if at_once or facts.now_s - self._charts_drawn_s >= interval_s:
            self._charts_drawn_s = facts.now_s
            self.charts.show(history)

    def allow(self, actions: Set[str], *, paused: bool) -> None:
        """Which buttons can be pressed."""
        self.query_one(ButtonRow).allow(actions, paused=paused)

    # -- samples and log

    @property
    def _both_seen(self) -> bool:
        return self.screen.has_class("-tall")

    def switch_notes(self) -> None:
        """The samples, the log in their place, or the samples alone."""
        self._notes = next_notes(self._notes, both_seen=self._both_seen)
        self._name_notes()

    def _name_notes(self) -> None:
        self.set_class(self._notes == "log" and not self._both_seen, "-log")
        self.set_class(self._notes == "alone", "-alone")
        key = shown_key(SWITCH_KEY, dict(self.app._keymap))
        names: dict[Notes, SamplesPanel | LogPanel] = {
            "samples": self.query_one(SamplesPanel),
            "log": self.query_one(LogPanel),
        }
        for name, pane in names.items():
            pane.border_title = notes_title(self._notes, name, both_seen=self._both_seen, key=key)

    @on(RunCharts.Pointed)
    def _charts_pointed(self, message: RunCharts.Pointed) -> None:
        """The sample that was the newest at the charts' cursor."""
        message.stop()
        row = None if message.x is None else nearest_row(self._history, message.axis, message.x)
        self.query_one(SamplesPanel).point_at(None if row is None else row[STEP])
