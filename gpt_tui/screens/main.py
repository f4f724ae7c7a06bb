"""The one full screen: header, the Train and Chat tabs, banner, footer; and what the Train tab's keys do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer, Tabs

from gpt_core.config import Settings
from gpt_tui.chat_model import ChatModels, MakeGenerator
from gpt_tui.engine import Engine, RunRequest
from gpt_tui.keymap import KEYS, bindings, keys_of, shown_key
from gpt_tui.messages import ChatLeft, SetupRead
from gpt_tui.quantities import whole
from gpt_tui.run_setup import Setup, model_name, read_setup, run_name
from gpt_tui.run_status import Phase, allowed
from gpt_tui.sampling_fields import initial_texts
from gpt_tui.screens.choice import run_exists_question
from gpt_tui.widgets.banner import Banner
from gpt_tui.widgets.chat_pane import ChatPane
from gpt_tui.widgets.header_bar import HeaderBar
from gpt_tui.widgets.train_pane import TrainPane

TAB_ACTIONS = frozenset(key.action.partition("(")[0] for key in keys_of("train", "charts"))
RUN_ACTIONS = frozenset(key.action for key in keys_of("train"))


class MainScreen(Screen[None]):
    """Shows what the engine has drained, and asks it for what the keys say. Owns no thread."""

    AUTO_FOCUS = ""
    BINDINGS = bindings("train", "charts")

    def __init__(self, engine: Engine, settings: Settings, preset_name: str, make: MakeGenerator) -> None:
        super().__init__()
        self._engine = engine
        self._settings = settings
        self._preset_name = preset_name
        self._setup = Setup(settings, preset_name)
        self._models = ChatModels(engine, settings.models_dir)
        self._make = make
        self._shown_phase: Phase | None = None

    def compose(self) -> ComposeResult:
        """All of it; the panes are there from the beginning, so that switching tabs is instant."""
        yield HeaderBar(id="header")
        with ContentSwitcher(initial="train", id="panes"):
            yield TrainPane(id="train")
            yield ChatPane(self._models, self._make, initial_texts(self._settings), id="chat")
        yield Banner(id="banner")
        yield Footer(show_command_palette=True)

    def on_mount(self) -> None:
        """Looks for text and checkpoints."""
        self.query_one(HeaderBar).show_model(model_name(self._setup))
        self.look_around()
        self.show(at_once=True)

    # -- what is shown

    @property
    def tab(self) -> str:
        """The tab one is in: train or chat."""
        return self.query_one("#panes", ContentSwitcher).current or "train"

    @property
    def banner(self) -> Banner:
        """The line that must not be missed."""
        return self.query_one(Banner)

    def look_around(self) -> None:
        """Finds out, in a thread, what a start would train and which checkpoints are there."""
        self.run_worker(self._look, thread=True, exclusive=True, group="setup", exit_on_error=False)

    def _look(self) -> None:
        self.post_message(SetupRead(read_setup(self._settings, self._preset_name)))

    def on_setup_read(self, message: SetupRead) -> None:
        """Shows it, and what can be done with it."""
        self._setup = message.setup
        if self._engine.phase is not Phase.OPENING:
            self.query_one(TrainPane).show_setup(message.setup, self._shown_keys())
        self._show_chat_model()
        self._show_allowed()

    def _shown_keys(self) -> dict[str, str]:
        keymap = dict(self.app._keymap)
        keys = {key.action: shown_key(key, keymap) for key in KEYS}
        return keys | {"chat": keys["go('chat')"]}

    def show(self, *, at_once: bool = False) -> None:
        """Brings the screen up to what the engine has drained; only the tab that is seen is drawn."""
        engine, pane = self._engine, self.query_one(TrainPane)
        facts, history = engine.facts(), engine.history
        at_once = at_once or facts.phase is not self._shown_phase
        if facts.phase is Phase.OPENING:
            pane.show_opening(*engine.opening)
        elif history.started is None:
            pane.show_welcome()
        elif self.tab == "train":
            self.query_one(HeaderBar).show_model(run_name(history.started))
            pane.show_run(history, facts, at_once=at_once)
        if at_once or self.tab == "chat":
            step = f"step {whole(history.step)}" if history.started else ""
            self.query_one(HeaderBar).show_state(facts.phase, step if self.tab == "chat" else "")
        if facts.phase is not self._shown_phase:
            self._shown_phase = facts.phase
            self._show_allowed()
            self._show_chat_model()

    def _show_allowed(self) -> None:
        phase = self._engine.phase
        paused = phase in (Phase.PAUSED, Phase.PAUSING)
        self.query_one(TrainPane).allow(self._allowed(), paused=paused)
        self.refresh_bindings()

    def _allowed(self) -> frozenset[str]:
        return allowed(self._engine.phase, can_resume=self._setup.stored.resumable is not None)

    def _show_chat_model(self) -> None:
        if self._engine.live_model():
            name = "the one in training"
        else:
            there = self._setup.stored.for_chat
            name = f"{there.path.name}, step {whole(there.step)}" if there else ""
        self.query_one(ChatPane).show_model(name)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the Train tab work there only, and its commands when they make sense."""
        if action in RUN_ACTIONS and action not in self._allowed():
            return None if self.tab == "train" else False
        return action not in TAB_ACTIONS or self.tab == "train"

    # -- tabs

    def go(self, tab: str) -> None:
        """Shows a tab."""
        self.query_one(Tabs).active = f"tab-{tab}"

    @on(Tabs.TabActivated)
    def _tab_activated(self, message: Tabs.TabActivated) -> None:
        message.stop()
        tab = (message.tab.id or "").removeprefix("tab-")
        self.query_one("#panes", ContentSwitcher).current = tab
        self.show(at_once=True)
        self.refresh_bindings()
        if tab == "chat":
            self.query_one(ChatPane).focus_prompt()
        else:
            self.set_focus(None)

    @on(ChatLeft)
    def _chat_left(self, message: ChatLeft) -> None:
        message.stop()
        self.go("train")

    # -- actions: the engine

    def begin(self, request: RunRequest) -> None:
        """Starts a run, if none is under way."""
        if self._engine.start(request):
            self.banner.say("")
            self.go("train")
            self.show(at_once=True)

    def action_start(self) -> None:
        """A new run with the settings given."""
        self.begin(RunRequest(self._settings, self._preset_name))

    def action_overfit(self) -> None:
        """A tiny-overfit run."""
        self.begin(RunRequest(msgspec.structs.replace(self._settings, overfit_tiny=True), self._preset_name))

    def action_resume(self) -> None:
        """The run of the newest checkpoint goes on, with the settings it was started with."""
        self.begin(RunRequest(self._settings, self._preset_name, latest=True))

    def action_pause(self) -> None:
        """Pause, or go on."""
        if self._engine.phase in (Phase.PAUSED, Phase.PAUSING):
            self._engine.go_on()
        else:
            self._engine.pause()
        self.show(at_once=True)

    def action_step(self) -> None:
        """One step."""
        self._engine.single_step()
        self.show(at_once=True)

    def action_save(self) -> None:
        """A checkpoint."""
        self._engine.save()
        self.notify("saving after this step")

    def action_evaluate(self) -> None:
        """A score."""
        self._engine.evaluate()
        self.notify("evaluating after this step")

    def action_stop(self) -> None:
        """The end of the run."""
        self._engine.stop()
        self.show(at_once=True)

    def ask_about_existing_run(self, error: str) -> None:
        """Another run's checkpoints are in the way of the run that was asked for."""
        request = self._engine.request
        assert request is not None

        def answered(answer: str | None) -> None:
            if answer == "resume":
                self.action_resume()
            elif answer == "overwrite":
                self.begin(replace(request, overwrite=True))

        question = run_exists_question(error, can_resume=self._setup.stored.resumable is not None)
        self.app.push_screen(question, partial(answered))

    # -- actions: the charts

    def _change_view(self, **changes: object) -> None:
        pane = self.query_one(TrainPane)
        pane.view = replace(pane.view, **changes)  # type: ignore[arg-type]

    def action_log_scale(self) -> None:
        """Logarithmic or linear."""
        self._change_view(log=not self.query_one(TrainPane).view.log)

    def action_next_axis(self) -> None:
        """Steps, tokens, time."""
        pane = self.query_one(TrainPane)
        pane.view = pane.view.with_next_axis()

    def action_zoom(self, factor: float) -> None:
        """A shorter or longer part."""
        self.query_one(TrainPane).zoom(factor)

    def action_zoom_reset(self) -> None:
        """The whole run."""
        self._change_view(span=1.0, end=None)

    def action_pan(self, share: float) -> None:
        """An earlier or later part."""
        self.query_one(TrainPane).pan(share)
