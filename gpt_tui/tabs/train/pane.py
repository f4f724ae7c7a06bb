"""The Train tab: controls of a run, its charts, samples, log and status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import msgspec
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import ContentSwitcher

from gpt_core.checkpoints.folders import next_free_folder
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError
from gpt_core.formats.checkpoint_header import CheckpointInfo, peek_checkpoint
from gpt_core.training.request import RunRequest
from gpt_tui.charts.chart_keys import ChartKeys
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.new_run.probe import Probes
from gpt_tui.new_run.screen import SetupScreen, initial_form_state
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.overfit_folder import overfit_folder
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_preview import RunPreview, read_preview, shown_path, stored_checkpoints
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.button_row import ButtonRow
from gpt_tui.shared.dialogs import run_exists_question
from gpt_tui.shared.keymap import KEYS, action_of, keys_of, shown_keys
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.train.countdown import CountdownLine
from gpt_tui.tabs.train.next_run import NextRun
from gpt_tui.tabs.train.presenter import allowed, starts_unasked, why_not
from gpt_tui.tabs.train.resume_dialog import ResumeScreen, end_of_run
from gpt_tui.tabs.train.run_panels import RunPanels
from gpt_tui.tabs.train.welcome import Welcome

RUN_ACTIONS = frozenset(key.action for key in keys_of("train"))
SAMPLE_ACTIONS = frozenset(key.action.partition("(")[0] for key in keys_of("samples"))
START_NOW_KEY = next(key for key in KEYS if key.action == "start_now")
HINT_S = 4.0
"""How long the reason why a key does nothing is shown, and not repeated."""


def header_of(path: Path) -> CheckpointInfo | None:
    """Return the header of a checkpoint, None if it is not valid: the run that opens it reports why."""
    try:
        return peek_checkpoint(path)
    except CheckpointError:
        return None


class TrainTab(Vertical):
    """Starts and controls runs, and shows the run of the session.

    Args:
        controller: The training session.
        settings: Settings of the next run.
        preset_name: Preset that the settings began with, "" for none.
        probes: Measurements of the set-up screen.
        countdown_s: Seconds after which a first run starts, 0 for no countdown.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("train", "samples")

    class RunRequested(Message):
        """A run has been requested and is opening."""

    class SettingsChanged(Message):
        """The settings of the next run have changed."""

        def __init__(self, settings: Settings, preset_name: str) -> None:
            super().__init__()
            self.settings = settings
            self.preset_name = preset_name

    class PreviewRead(Message, bubble=False):
        """The files and checkpoints of the next run are known. Posted by a worker thread."""

        def __init__(self, preview: RunPreview) -> None:
            super().__init__()
            self.preview = preview

    def __init__(
        self, controller: TrainingController, settings: Settings, preset_name: str, probes: Probes, *,
        countdown_s: float = 0.0, id: str,
    ) -> None:  # fmt: skip
        super().__init__(id=id)
        self._next = NextRun(settings, preset_name)
        self.preview = RunPreview(settings, preset_name)
        self._controller = controller
        self._probes = probes
        self._countdown_s = countdown_s
        self._hint, self._hinted_at_s = "", 0.0

    def compose(self) -> ComposeResult:
        """Compose the welcome view and the run view, with the buttons below."""
        with ChartKeys(self._visible_charts, self._find_export, id="train-body"):
            with ContentSwitcher(initial="welcome", id="train-switcher"):
                yield Welcome(self._probes, id="welcome")
                yield RunPanels(id="run")
            yield ButtonRow("train", id="controls")

    def on_mount(self) -> None:
        """Read the preview of the next run."""
        self.read_preview()

    def enter(self) -> None:
        """Take the focus."""
        self.screen.set_focus(self.query_one(ChartKeys), scroll_visible=False)

    @property
    def settings(self) -> Settings:
        """Settings of the next run."""
        return self._next.settings

    @property
    def charts(self) -> RunCharts:
        """The charts of the run."""
        return self._panels.charts

    @property
    def _panels(self) -> RunPanels:
        return self.query_one(RunPanels)

    @property
    def _shows_run(self) -> bool:
        return self.query_one("#train-switcher", ContentSwitcher).current == "run"

    def _find_export(self) -> tuple[RunCharts, Path] | None:
        request = self._controller.request
        folder = Path((request.settings if request else self.settings).models_dir)
        return (self.charts, folder) if self._shows_run else None

    def _visible_charts(self) -> RunCharts | None:
        return self._panels.visible_charts if self._shows_run else None

    # -- preview and settings

    def read_preview(self) -> None:
        """Find the text and the checkpoints of the next run, in a thread."""
        self.run_worker(self._read_preview, thread=True, exclusive=True, group="preview", exit_on_error=False)

    def _read_preview(self) -> None:
        request = self._controller.request
        session_dir = request.settings.models_dir if request else ""
        self.post_message(self.PreviewRead(read_preview(self.settings, self._next.preset_name, session_dir)))

    @on(PreviewRead)
    def _preview_read(self, message: PreviewRead) -> None:
        self.preview = message.preview
        if not self._controller.alive:  # else the measurement would compete with the run
            self.query_one(Welcome).show_preview(message.preview, self._next.changes, self._shown_keys())
            self._start_countdown()
        self.show_allowed()

    def _settings_changed(self) -> None:
        self.read_preview()
        self.post_message(self.SettingsChanged(self.settings, self._next.preset_name))

    # -- display

    def show(self, run: RunState, status: SessionStatus, *, at_once: bool) -> None:
        """Show the session as it is now.

        Args:
            run: The state of the run.
            status: Phase, time and memory.
            at_once: Redraw everything; else status twice per second, charts of a long run less often.
        """
        switcher = self.query_one("#train-switcher", ContentSwitcher)
        if run.started is None:
            switcher.current = "welcome"
            if status.phase is Phase.OPENING:
                self.query_one(Welcome).show_opening(*self._controller.opening)
            return
        if switcher.current != "run":
            switcher.current = "run"
            self.refresh_bindings()
        self._panels.show(run, status, at_once=at_once)

    def show_allowed(self) -> None:
        """Enable the buttons and keys that work in the current phase."""
        paused = self._controller.phase in (Phase.PAUSED, Phase.PAUSING)
        self.query_one(ButtonRow).allow(self._allowed(), paused=paused)
        self.refresh_bindings()

    def _allowed(self) -> frozenset[str]:
        actions = allowed(
            self._controller.phase,
            can_resume=self.preview.stored.resumable is not None,
            is_changed=bool(self._next.changes),
        )
        if self._controller.unsaved:
            actions |= {"save"}
        return actions | {"start_now"} if self._countdown.running else actions

    def _shown_keys(self) -> dict[str, str]:
        return shown_keys(dict(self.app._keymap))

    # -- the countdown of a first start

    @property
    def _countdown(self) -> CountdownLine:
        return self.query_one(Welcome).countdown

    def _start_countdown(self) -> None:
        """Start the countdown if there is nothing that the user may want to do first. It starts at most once."""
        length_s, self._countdown_s = self._countdown_s, 0.0
        idle = self._controller.phase is Phase.IDLE and self.screen.is_current
        if length_s and idle and starts_unasked(self.preview):
            self._countdown.start(self.preview, length_s)

    def cancel_countdown(self) -> None:
        """Start no run without a key: the user is present."""
        self._countdown_s = 0.0
        if self._countdown.running:
            self._countdown.cancel()
            self.show_allowed()

    @on(CountdownLine.Finished)
    def _countdown_finished(self, message: CountdownLine.Finished) -> None:
        message.stop()
        self.action_start()

    # -- keys and buttons

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the actions of a run that do not work in this phase; hide those of samples where there is no run."""
        if action in RUN_ACTIONS:
            return True if action in self._allowed() else None
        return action not in SAMPLE_ACTIONS or self._shows_run

    def on_key(self, event: events.Key) -> None:
        """Cancel the countdown; say why a key does nothing, once while the reason is shown."""
        keymap = dict(self.app._keymap)
        if event.key not in (keymap.get(START_NOW_KEY.id) or START_NOW_KEY.keys).split(","):
            self.cancel_countdown()
        action = action_of(event.key, "train", keymap)
        if not action or action in self._allowed():
            return
        hint, now_s = why_not(action, self._controller.phase, self._shown_keys()), time.monotonic()
        if hint and (hint != self._hint or now_s - self._hinted_at_s > HINT_S):
            self._hint, self._hinted_at_s = hint, now_s
            self.notify(hint, timeout=HINT_S, markup=False)

    @on(ButtonRow.Pressed)
    async def _button_pressed(self, message: ButtonRow.Pressed) -> None:
        message.stop()
        await self.run_action(message.action)

    # -- actions: runs

    def request_run(self, request: RunRequest) -> None:
        """Start a run, unless one is in progress."""
        if self._controller.start(request):
            self.query_one(Welcome).stop_measuring()
            self.cancel_countdown()
            self.charts.view = replace(self.charts.view.reset(), cursor=None)  # the place belongs to the run before
            self.post_message(self.RunRequested())

    def resume_from(self, path: Path) -> None:
        """Resume the run of a checkpoint in the folder of the checkpoint, with the settings saved in it."""
        settings = msgspec.structs.replace(self.settings, models_dir=str(path.parent))
        self._resume(RunRequest(settings, self._next.preset_name, resume=path, as_saved=True), header_of(path))

    def _resume(self, request: RunRequest, info: CheckpointInfo | None) -> None:
        """Resume a run; of one that has ended, ask for its new limits first."""
        if info is None or not end_of_run(info):
            self.request_run(request)
            return

        def answered(changes: dict[str, object] | None) -> None:
            if changes is not None:
                self.request_run(replace(request, changes=changes))

        self.cancel_countdown()
        self.app.push_screen(ResumeScreen(info), answered)

    @work(exclusive=True, group="request")
    async def ask_about_existing_run(self, error: str) -> None:
        """Ask whether the run in the folder of the requested run is resumed, kept beside the new one, or replaced."""
        request = self._controller.request
        assert request is not None
        models_dir = request.settings.models_dir
        beside = await asyncio.to_thread(next_free_folder, models_dir)
        stored = await asyncio.to_thread(stored_checkpoints, models_dir)
        question = run_exists_question(error, shown_path(beside), can_resume=stored.resumable is not None)
        match await self.app.push_screen_wait(question):
            case "resume":
                self._resume(replace(request, resume="newest"), stored.resumable)
            case "beside":
                self._next.use_folder(beside)
                self._settings_changed()
                settings = msgspec.structs.replace(request.settings, models_dir=str(beside))
                self.request_run(replace(request, settings=settings))
            case "overwrite":
                self.request_run(replace(request, overwrite=True))

    def action_start(self) -> None:
        """Start a new run."""
        self.request_run(RunRequest(self.settings, self._next.preset_name))

    def action_start_now(self) -> None:
        """End the countdown and start the run."""
        self.cancel_countdown()
        self.action_start()

    @work(exclusive=True, group="request")
    async def action_setup(self) -> None:
        """Open the set-up screen, with what was typed there last. What is typed there is what starts next."""
        self.query_one(Welcome).stop_measuring()
        result = await self.app.push_screen_wait(SetupScreen(self._next.form_state, self._probes))
        if problem := self._next.configure(result):
            self.notify(f"settings not changed: {one_line(problem)}", severity="warning", markup=False)
            self.read_preview()
            return
        self._settings_changed()
        if result.settings is not None:
            self.action_start()

    @work(exclusive=True, group="request")
    async def set_up_copy(self, settings: Settings, preset_name: str, started: Callable[[Settings], None]) -> None:
        """Open the set-up screen with the settings of another run; leaving it without a start changes nothing.

        Args:
            settings: Initial settings.
            preset_name: Preset of that run.
            started: Called with the settings of the run that is started.
        """
        if self._controller.alive:
            self.notify(why_not("setup", self._controller.phase, self._shown_keys()), timeout=HINT_S, markup=False)
            return
        self.cancel_countdown()
        self.query_one(Welcome).stop_measuring()
        form_state = initial_form_state(settings, preset_name)
        result = await self.app.push_screen_wait(SetupScreen(form_state, self._probes, focus="learning_rate"))
        if result.settings is None:
            self.read_preview()
            return
        self._next.configure(result)
        self._settings_changed()
        self.action_start()
        started(result.settings)

    def action_defaults(self) -> None:
        """Go back to the settings that the program started with."""
        self._next.reset()
        self._settings_changed()

    @work(exclusive=True, group="request")
    async def action_overfit(self) -> None:
        """Start an overfit run in a folder of its own, which replaces no run but an earlier overfit run."""
        folder = await asyncio.to_thread(overfit_folder, self.settings.models_dir)
        settings = msgspec.structs.replace(self.settings, overfit_tiny=True, models_dir=str(folder))
        self.request_run(RunRequest(settings, self._next.preset_name, overwrite=True))

    def action_resume(self) -> None:
        """Resume the newest checkpoint of the run that the preview names, with the settings saved in it."""
        resumable, settings = self.preview.stored.resumable, self.settings
        if resumable is not None:
            settings = msgspec.structs.replace(settings, models_dir=str(resumable.path.parent))
        self._resume(RunRequest(settings, self._next.preset_name, resume="newest"), resumable)

    def action_pause(self) -> None:
        """Pause after this step, or continue."""
        if self._controller.phase in (Phase.PAUSED, Phase.PAUSING):
            self._controller.unpause()
        else:
            self._controller.pause()

    def action_step(self) -> None:
        """Take one step, then pause."""
        self._controller.single_step()

    def action_save(self) -> None:
        """Save a checkpoint after this step."""
        self._controller.save()
        self._notify_request("saving")

    def action_evaluate(self) -> None:
        """Evaluate after this step; check the lines of a self-test."""
        self._controller.evaluate()
        started = self._controller.run.started
        is_self_test = started is not None and started.kind != "train"
        self._notify_request("checking the lines" if is_self_test else "evaluating")

    def _notify_request(self, activity: str) -> None:
        """Say what was requested, and that a step in progress is completed first."""
        self.notify(activity if self._controller.phase is Phase.PAUSED else f"{activity} after this step")

    def action_stop(self) -> None:
        """Stop after this step and save."""
        self._controller.stop(may_ask=True)

    # -- actions: panels of the run

    def action_switch_notes(self) -> None:
        """Show the samples, the log in their place, or the samples without the charts."""
        self._panels.switch_notes()
        self.refresh_bindings()  # the chart keys work where charts are visible

    def action_toggle_status(self) -> None:
        """Show the status panel, or the line of figures in its place."""
        self._panels.toggle_status()

    def action_samples(self, number: int) -> None:
        """Scroll by `number` samples, or lines of the log."""
        self._panels.scroll_notes(number)

    def action_samples_page(self, pages: int) -> None:
        """Scroll by pages."""
        self._panels.scroll_notes_by_pages(pages)

    def action_samples_end(self, first: bool) -> None:
        """Scroll to the first sample or line, or to the newest one and follow it."""
        self._panels.scroll_notes_to_end(first=first)
