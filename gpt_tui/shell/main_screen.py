"""The one full screen: header, a pane for each tab, banner, footer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from textual import events, on
from textual.app import ComposeResult
from textual.widgets import ContentSwitcher, Tabs

from gpt_core.config.settings import Settings
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.charts.view import MIN_REDRAW_S
from gpt_tui.new_run.probe import Probes
from gpt_tui.run_view.chart_actions import CHART_ACTIONS, ChartActions
from gpt_tui.run_view.status import Phase, allowed, why_not
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.run_preview import Setup, model_name, read_setup, run_name
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.dialogs import unsaved_question
from gpt_tui.shared.footer import FooterBar
from gpt_tui.shared.formatting import whole
from gpt_tui.shared.keymap import KEYS, action_of, shown_key
from gpt_tui.shared.messages import PreviewRead
from gpt_tui.shell.banner import Banner
from gpt_tui.shell.header import HeaderBar
from gpt_tui.tabs.chat.models import ChatModels, MakeGenerator
from gpt_tui.tabs.chat.pane import ChatTab
from gpt_tui.tabs.chat.presenter import initial_texts
from gpt_tui.tabs.checkpoints.pane import CheckpointsTab
from gpt_tui.tabs.runs.pane import RunsTab
from gpt_tui.tabs.runs.presenter import name_of
from gpt_tui.tabs.train.first_start import FirstStart
from gpt_tui.tabs.train.pane import TrainTab
from gpt_tui.tabs.train.run_actions import RUN_ACTIONS, RunActions
from gpt_tui.tabs.train.sample_actions import SAMPLE_ACTIONS, SampleActions

TOLD_S = 4.0  # for how long a key's answer is seen


class MainScreen(ChartActions, SampleActions, RunActions, FirstStart):
    """Shows what the controller has drained, and asks it for what the keys say. Owns no thread."""

    AUTO_FOCUS = ""
    BINDINGS = bindings("train", "samples", "charts")

    def __init__(
        self, controller: TrainingController, settings: Settings, preset_name: str, make: MakeGenerator,
        probes: Probes, *, watched: Path | None = None, lead_s: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.probes = probes
        self._watched = watched
        self.lead_s = lead_s
        self.controller = controller
        self.settings = settings
        self.preset_name = preset_name
        self._setup = Setup(settings, preset_name)
        self._models = ChatModels(controller, settings.models_dir)
        self._make = make
        self._shown_phase: Phase | None = None
        self._stated_s = 0.0  # when the header was written
        self._told, self._told_at_s = "", 0.0  # why a key did nothing

    def compose(self) -> ComposeResult:
        """All of it; the panes are there from the beginning, so that switching tabs is instant."""
        yield HeaderBar(id="header")
        with ContentSwitcher(initial="train", id="panes"):
            yield TrainTab(id="train")
            yield ChatTab(self._models, self._make, initial_texts(self.settings), id="chat")
            yield CheckpointsTab(self.settings.models_dir, id="checkpoints")
            yield RunsTab(Path(self.settings.models_dir), watched=self._watched, id="runs")
        yield Banner(id="banner")
        yield FooterBar()

    def on_mount(self) -> None:
        """Looks for text and checkpoints."""
        watching = f"watching {name_of(self._watched)}" if self._watched else ""
        self.query_one(HeaderBar).show_model(watching or model_name(self._setup))
        self.look_around()
        self.show(at_once=True)
        if self._watched:
            self.call_after_refresh(self.go, "runs")  # when the tabs have chosen their first

    # -- what is shown

    @property
    def tab(self) -> str:
        """The tab one is in, as the key table names it."""
        return self.query_one("#panes", ContentSwitcher).current or "train"

    @property
    def banner(self) -> Banner:
        """The line that must not be missed."""
        return self.query_one(Banner)

    @property
    def train_pane(self) -> TrainTab:
        """The Train tab."""
        return self.query_one(TrainTab)

    @property
    def charts(self) -> RunCharts | None:
        """The charts of the tab that is shown, if it has any that are seen."""
        if self.tab == "train":
            return self.train_pane.charts if self.train_pane.shows_charts else None
        return self.query_one(RunsTab).charts if self.tab == "runs" else None

    def take_settings(self, settings: Settings, preset_name: str) -> None:
        """Other settings, and the folder of the checkpoints with them."""
        super().take_settings(settings, preset_name)
        self._models.use_folder(settings.models_dir)
        self.query_one(CheckpointsTab).show_folder(settings.models_dir)
        self.look_around()

    def look_around(self) -> None:
        """Finds out, in a thread, what a start would train and which checkpoints are there."""
        self.run_worker(self._look, thread=True, exclusive=True, group="setup", exit_on_error=False)

    def _look(self) -> None:
        self.post_message(PreviewRead(read_setup(self.settings, self.preset_name)))

    def on_preview_read(self, message: PreviewRead) -> None:
        """Shows it, and what can be done with it."""
        self._setup = message.setup
        if self.controller.phase is not Phase.OPENING:
            self.query_one(TrainTab).show_setup(message.setup, self.shown_keys())
            self.lead(message.setup, self.shown_keys())
        self._show_allowed()

    def shown_keys(self) -> dict[str, str]:
        """The key of each action, after the user's own keymap."""
        keymap = dict(self.app._keymap)
        keys = {key.action: shown_key(key, keymap) for key in KEYS}
        return keys | {"chat": keys["go('chat')"]}

    def show(self, *, at_once: bool = False) -> None:
        """Brings the screen up to what the controller has drained; only the tab that is seen is drawn."""
        controller, pane = self.controller, self.query_one(TrainTab)
        facts, history = controller.facts(), controller.history
        at_once = at_once or facts.phase is not self._shown_phase
        if facts.phase is Phase.OPENING:
            pane.show_opening(*controller.opening)
        elif history.started is None:
            pane.show_welcome()
        elif self.tab == "train":
            self.query_one(HeaderBar).show_model(run_name(history.started))
            pane.show_run(history, facts, at_once=at_once)
        if at_once or facts.now_s - self._stated_s >= MIN_REDRAW_S:
            self._stated_s = facts.now_s
            step = f"step {whole(history.step)}" if history.started else ""
            self.query_one(HeaderBar).show_state(facts.phase, step)
        self.query_one(ChatTab).follow(live=controller.live_model() is not None, saved=history.saved)
        if facts.phase is not self._shown_phase:
            if self._shown_phase is Phase.OPENING and controller.warning:
                self.banner.say(controller.warning, "bad")
            self._shown_phase = facts.phase
            self._show_allowed()
            request = controller.request if controller.alive else None
            self.query_one(CheckpointsTab).show_running(Path(request.settings.models_dir) if request else None)

    def begun(self) -> None:
        """A run begins: it is on the Train tab."""
        self.wait_for_user()
        self.banner.say("")
        if request := self.controller.request:
            self._models.use_folder(request.settings.models_dir)
        charts = self.query_one(TrainTab).charts
        charts.view = replace(charts.view.reset(), cursor=None)  # the place looked at was one of the run before
        self.go("train")
        self.show(at_once=True)

    def ended(self, failure: str = "", *, run_exists: bool = False) -> None:
        """A run has ended; where another run was in its way, the user is asked about that one."""
        self.look_around()
        if run_exists:
            self.ask_about_existing_run(failure, can_resume=self._setup.stored.resumable is not None)

    def ask_about_unsaved_run(self, answered: Callable[[str | None], None]) -> None:
        """The last save has failed, and the run waits for an answer."""
        self._show_allowed()
        self.app.push_screen(unsaved_question(self.controller.history.save_error), answered)

    def _show_allowed(self) -> None:
        paused = self.controller.phase in (Phase.PAUSED, Phase.PAUSING)
        self.query_one(TrainTab).allow(self._allowed(), paused=paused)
        self.refresh_bindings()

    def _allowed(self) -> frozenset[str]:
        actions = allowed(self.controller.phase, can_resume=self._setup.stored.resumable is not None)
        if self.controller.unsaved:
            actions |= {"save"}
        return actions | {"start_now"} if self.is_leading else actions

    def leading_changed(self) -> None:
        """A key of the first start works, or works no more."""
        self._show_allowed()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the Train tab and of the charts work where these are, and commands when they make sense."""
        if action in RUN_ACTIONS and action not in self._allowed():
            return None if self.tab == "train" else False
        if action in RUN_ACTIONS:
            return self.tab == "train"
        if action in SAMPLE_ACTIONS or (action in CHART_ACTIONS and self.tab == "train"):
            has_run = self.tab == "train" and self.controller.history.started is not None
            return has_run and (action in SAMPLE_ACTIONS or self.train_pane.shows_charts)
        return action not in CHART_ACTIONS or self.charts is not None

    def on_key(self, event: events.Key) -> None:
        """A key of the Train tab that does nothing now says why; pressed again and again it says so once."""
        action = action_of(event.key, "train", dict(self.app._keymap)) if self.tab == "train" else ""
        if not action or action in self._allowed():
            return
        words, now_s = why_not(action, self.controller.phase, self.shown_keys()), time.monotonic()
        if words and (words != self._told or now_s - self._told_at_s > TOLD_S):
            self._told, self._told_at_s = words, now_s
            self.notify(words, timeout=TOLD_S, markup=False)

    # -- tabs

    def go(self, tab: str) -> None:
        """Shows a tab, in one frame: its name in the header and its pane."""
        tabs = self.query_one(Tabs)
        with self.app.batch_update(), tabs.prevent(Tabs.TabActivated):
            tabs.active = f"tab-{tab}"
            self._show_tab(tab)

    @on(Tabs.TabActivated)
    def _tab_activated(self, message: Tabs.TabActivated) -> None:
        message.stop()
        self._show_tab((message.tab.id or "").removeprefix("tab-"))

    def _show_tab(self, tab: str) -> None:
        if tab == self.tab:
            return
        self.query_one("#panes", ContentSwitcher).current = tab
        if tab != "train":
            self.wait_for_user()
        self.show(at_once=True)
        self.refresh_bindings()
        self.set_focus(None)
        pane = self.query_one(f"#{tab}")
        if isinstance(pane, ChatTab | CheckpointsTab | RunsTab):
            pane.enter()

    @on(ChatTab.ExitRequested)
    def _chat_exited(self, message: ChatTab.ExitRequested) -> None:
        message.stop()
        self.go("train")

    @on(CheckpointsTab.ResumeRequested)
    def _resume_requested(self, message: CheckpointsTab.ResumeRequested) -> None:
        message.stop()
        self.resume_from(message.path)

    @on(CheckpointsTab.ChatRequested)
    def _chat_requested(self, message: CheckpointsTab.ChatRequested) -> None:
        message.stop()
        self.query_one(ChatTab).choose(message.path, compare=message.compare)
        self.go("chat")

    @on(CheckpointsTab.Deleted)
    def _checkpoint_deleted(self, message: CheckpointsTab.Deleted) -> None:
        message.stop()
        self.look_around()
