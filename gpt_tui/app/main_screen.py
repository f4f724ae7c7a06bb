"""Main screen: header, one pane per tab, banner, footer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from textual import events, on
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Tabs

from gpt_core.config.settings import Settings
from gpt_core.training.events import RunStarted
from gpt_tui.charts.view import MIN_REDRAW_S
from gpt_tui.new_run.probe import Probes
from gpt_tui.run_view.surprise.screen import SurpriseScreen, TextToScore
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.models import LoadedModel, MakeGenerator, ModelLoader, Report
from gpt_tui.session.phase import Phase
from gpt_tui.session.removed_parts import RemovedParts
from gpt_tui.session.run_preview import RunPreview, model_name, run_name
from gpt_tui.session.run_state import Sample
from gpt_tui.shared.dialogs import unsaved_question
from gpt_tui.shared.footer import FooterBar
from gpt_tui.shared.formatting import AGE_INTERVAL_S, integer
from gpt_tui.shell.banner import Banner
from gpt_tui.shell.header import HeaderBar
from gpt_tui.tabs.chat.pane import ChatTab
from gpt_tui.tabs.chat.presenter import initial_texts
from gpt_tui.tabs.checkpoints.pane import CheckpointsTab
from gpt_tui.tabs.inside.pane import InsideTab
from gpt_tui.tabs.runs.pane import RunsTab
from gpt_tui.tabs.runs.presenter import is_own_run, name_of
from gpt_tui.tabs.train.guide import Guide
from gpt_tui.tabs.train.pane import TrainTab


class MainScreen(Screen[None]):
    """Switches tabs, shows the state of the session in the header, and routes messages between tabs."""

    AUTO_FOCUS = ""

    def __init__(
        self, controller: TrainingController, settings: Settings, preset_name: str, make: MakeGenerator,
        probes: Probes, *, watched: Path | None = None, countdown_s: float = 0.0, first_minutes: float = 0.0,
        guide: Guide | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._controller = controller
        self._watched = watched
        self._models = ModelLoader(controller, settings.models_dir)
        self._removed = RemovedParts()
        self._shown_phase: Phase | None = None
        self._shown_start: RunStarted | None = None
        self._header_drawn_s = 0.0
        self.train = TrainTab(
            controller,
            settings,
            preset_name,
            probes,
            countdown_s=countdown_s,
            first_minutes=first_minutes,
            guide=guide,
            id="train",
        )
        self.chat = ChatTab(self._models, make, initial_texts(settings), self._removed, id="chat")
        self.checkpoints = CheckpointsTab(settings.models_dir, id="checkpoints")
        self.runs = RunsTab(Path(settings.models_dir), watched=watched, id="runs")
        self.inside = InsideTab(self._models, self._removed, id="inside")

    def compose(self) -> ComposeResult:
        """Compose everything at once, so that a switch of tabs takes one frame."""
        yield HeaderBar(id="header")
        with ContentSwitcher(initial="train", id="panes"):
            yield self.train
            yield self.chat
            yield self.checkpoints
            yield self.runs
            yield self.inside
        yield Banner(id="banner")
        yield FooterBar()

    def on_mount(self) -> None:
        """Show the next run, or the watched one."""
        watching = f"watching {name_of(self._watched)}" if self._watched else ""
        self.query_one(HeaderBar).show_model(watching or model_name(self.train.preview))
        self.show(at_once=True)
        self._enter_pane()
        self.set_interval(AGE_INTERVAL_S, self._show_ages)
        if self._watched:
            self.call_after_refresh(self.go, "runs")  # after the tabs have activated their first

    # -- display

    @property
    def banner(self) -> Banner:
        """The line for important messages."""
        return self.query_one(Banner)

    def show(self, *, at_once: bool = False) -> None:
        """Show what the controller has drained; only the visible tab is drawn.

        Args:
            at_once: Redraw everything, whatever was drawn just before.
        """
        controller, header = self._controller, self.query_one(HeaderBar)
        run, status = controller.run, controller.status()
        phase_changed = status.phase is not self._shown_phase
        at_once = at_once or phase_changed
        if self.tab == "train" or run.started is None:
            self.train.show(run, status, at_once=at_once)
        if self.tab == "train" and run.started is not None:
            header.show_model(run_name(run.started))
        if at_once or status.now_s - self._header_drawn_s >= MIN_REDRAW_S:
            self._header_drawn_s = status.now_s
            step = run.step if run.started else None
            header.show_state(status.phase, step)
            self.app.sub_title = "" if step is None else f"{status.phase.value}, step {integer(step)}"
        if self.tab == "inside":
            self.inside.follow(run, live=controller.live_model() is not None, reply=self.chat.last_reply)
        self.chat.follow(live=controller.live_model() is not None, saved=run.saved)
        if run.started is not self._shown_start:
            self._shown_start = run.started
            if run.started is not None and controller.warning:
                self.banner.say(controller.warning)
        if phase_changed:
            self._shown_phase = status.phase
            self.train.show_allowed()
            request = controller.request if controller.alive else None
            self.checkpoints.show_running(Path(request.settings.models_dir) if request else None)

    def _show_ages(self) -> None:
        """Update the ages on the Train tab while no run does so."""
        if self.tab == "train" and not self._controller.alive:
            self.train.show_ages(self._controller.status())

    def show_end(self, *, asks: bool = False) -> None:
        """Show that a run has ended.

        Args:
            asks: True to ask for what helps against its failure.
        """
        failure = self._controller.failure
        self.train.read_preview(after_run=True)
        if failure is None:
            if self._controller.kept:
                self.banner.say(self._controller.kept)
        elif asks:
            self.train.ask_about_failure(failure)

    def ask_about_unsaved_run(self, answered: Callable[[str | None], None]) -> None:
        """Ask what to do with a run whose last save failed."""
        self.train.show_allowed()
        self.app.push_screen(unsaved_question(self._controller.run.save_error), answered)

    @property
    def models_dir(self) -> Path:
        """Models folder of the run, or of the next one."""
        return Path(self._models.models_dir)

    # -- tabs

    @property
    def tab(self) -> str:
        """Name of the visible tab, as in the key table."""
        return self.query_one("#panes", ContentSwitcher).current or "train"

    @property
    def pane(self) -> TrainTab | ChatTab | CheckpointsTab | RunsTab | InsideTab:
        """The visible tab."""
        match self.tab:
            case "chat":
                return self.chat
            case "checkpoints":
                return self.checkpoints
            case "runs":
                return self.runs
            case "inside":
                return self.inside
            case _:
                return self.train

    def go(self, tab: str) -> None:
        """Show a tab, header and pane in one frame."""
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
        step = self.pane.pointed_step if isinstance(self.pane, TrainTab | RunsTab) else None
        self.query_one("#panes", ContentSwitcher).current = tab
        if tab != "train":
            self.train.cancel_countdown()
        if tab == "inside" and step is not None:
            self.inside.point_at(step)
        self.show(at_once=True)
        self.set_focus(None)
        self._enter_pane()

    def _enter_pane(self) -> None:
        """Enter the visible tab. Its widget has the focus before the next key, unlike after `Widget.focus`."""
        self.set_focus(self.pane.enter(), scroll_visible=False)

    def set_focus(self, widget: Widget | None, scroll_visible: bool = True, from_app_focus: bool = False) -> None:
        """Focus a widget, unless it is in a hidden tab: `Widget.focus` is deferred until the next message."""
        within = widget.ancestors if widget is not None else []
        panes = next((node for node in within if isinstance(node, ContentSwitcher) and node.id == "panes"), None)
        if widget is None or panes is None or any(node.id == panes.current for node in within):
            super().set_focus(widget, scroll_visible, from_app_focus)
        else:
            widget.post_message(events.Blur())  # closes an open list

    def watch_focused(self, focused: Widget | None) -> None:
        """Keep the focus in the visible tab, whose keys would not work without it."""
        if focused is None and self.app.app_focus and self.is_mounted:
            self.call_later(self._restore_focus)

    def _restore_focus(self) -> None:
        if self.focused is None and self.app.app_focus:
            self._enter_pane()

    # -- messages between tabs

    @on(TrainTab.RunRequested)
    def _run_requested(self, message: TrainTab.RunRequested) -> None:
        message.stop()
        if self._controller.alive and self._controller.run.started is None:  # else the banner is on this run
            self.banner.say("")
        if request := self._controller.request:
            self._models.use_folder(request.settings.models_dir)
            self.checkpoints.include_folder(request.settings.models_dir)
            self.runs.include_folder(Path(request.settings.models_dir))
        self.go("train")
        self.show(at_once=True)

    @on(TrainTab.FailureDismissed)
    def _failure_dismissed(self, message: TrainTab.FailureDismissed) -> None:
        message.stop()
        if not self._controller.alive and self._controller.failure is None:  # else the banner is on the next run
            self.banner.say("")
            self.show(at_once=True)

    @on(TrainTab.SurpriseRequested)
    def _surprise_requested(self, message: TrainTab.SurpriseRequested) -> None:
        message.stop()
        self._color_sample(message.sample, self._folder_of_ended_run())

    @on(RunsTab.SurpriseRequested)
    def _surprise_in_run_requested(self, message: RunsTab.SurpriseRequested) -> None:
        message.stop()
        self._color_sample(message.sample, None if is_own_run(message.run) else message.run.folder)

    def _folder_of_ended_run(self) -> Path | None:
        """Return the folder of the run that is shown, if it has ended and another folder was chosen since."""
        request = self._controller.request
        if self._controller.alive or request is None or request.settings.models_dir == self._models.models_dir:
            return None
        return Path(request.settings.models_dir)

    def _color_sample(self, sample: Sample, folder: Path | None = None) -> None:
        """Color a sample by surprise, and continue it in Chat.

        Args:
            sample: The sample.
            folder: Folder of its run, whose model continues it. None for the run of this session, where the model that
                is chosen in Chat does.
        """
        used: list[LoadedModel] = []

        def load(report: Report) -> LoadedModel:
            used.append(self._models.load_of_step(sample.step, report, folder))
            return used[-1]

        async def continue_from(text: str | None) -> None:
            if not text:
                return
            bundle = used[-1].bundle
            if folder is not None and bundle is not None and bundle.path:
                self.chat.choose(str(bundle.path))
            self.go("chat")
            await self.chat.generate_from(text)

        title = f"sample at step {integer(sample.step)}"
        scored = TextToScore(title, sample.prompt, sample.exact_text, "", load)
        self.app.push_screen(SurpriseScreen([scored]), continue_from)

    @on(TrainTab.SettingsChanged)
    def _settings_changed(self, message: TrainTab.SettingsChanged) -> None:
        message.stop()
        self._models.use_folder(message.settings.models_dir)
        self.checkpoints.show_folder(message.settings.models_dir)
        self.runs.include_folder(Path(message.settings.models_dir))
        if self._controller.run.started is None:
            self.query_one(HeaderBar).show_model(model_name(RunPreview(message.settings, message.preset_name)))

    @on(RunsTab.CopyRequested)
    def _copy_requested(self, message: RunsTab.CopyRequested) -> None:
        message.stop()
        source = message.folder

        def started(settings: Settings) -> None:
            self.runs.compare(source, Path(settings.models_dir))

        self.train.set_up_copy(source, message.settings, message.preset_name, started)

    @on(RunsTab.InsideRequested)
    def _inside_of_run_requested(self, message: RunsTab.InsideRequested) -> None:
        message.stop()
        self.go("inside")
        self.inside.look_at(message.path, message.step)

    @on(ChatTab.ExitRequested)
    def _chat_exited(self, message: ChatTab.ExitRequested) -> None:
        message.stop()
        self.go("train")

    @on(CheckpointsTab.ResumeRequested)
    def _resume_requested(self, message: CheckpointsTab.ResumeRequested) -> None:
        message.stop()
        self.train.resume_from(message.path, message.info)

    @on(CheckpointsTab.FineTuneRequested)
    def _fine_tuning_requested(self, message: CheckpointsTab.FineTuneRequested) -> None:
        message.stop()
        self.train.set_up_fine_tuning(message.path)

    @on(CheckpointsTab.ChatRequested)
    def _chat_requested(self, message: CheckpointsTab.ChatRequested) -> None:
        message.stop()
        self.chat.choose(str(message.path), compare=message.compare)
        self.go("chat")

    @on(InsideTab.Requested)
    async def _inside_requested(self, message: InsideTab.Requested) -> None:
        message.stop()
        self.chat.choose(message.model)
        self.go("chat")
        await self.chat.generate_from(message.request.prompt)

    @on(CheckpointsTab.Deleted)
    def _checkpoint_deleted(self, message: CheckpointsTab.Deleted) -> None:
        message.stop()
        self.train.read_preview()

    def on_mouse_down(self) -> None:
        """Cancel the countdown of a first start."""
        self.train.cancel_countdown()

    def on_screen_suspend(self) -> None:
        """Cancel the countdown of a first start: a dialog or the palette covers the screen."""
        self.train.cancel_countdown()
