"""The Train tab: controls of a run, its charts, samples, log and status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import ContentSwitcher

from gpt_core.config.settings import Settings
from gpt_tui.charts.chart_keys import ChartKeys
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.new_run.probe import Probes
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_finder import is_trained_in
from gpt_tui.session.run_state import RunState, Sample
from gpt_tui.shared.bindings import bindings, keymap_of
from gpt_tui.shared.button_row import ButtonRow
from gpt_tui.shared.keymap import action_of, keys_of
from gpt_tui.tabs.train.countdown import CountdownLine
from gpt_tui.tabs.train.guide import Guide
from gpt_tui.tabs.train.guide_texts import SWITCHED_OFF, SWITCHED_ON
from gpt_tui.tabs.train.presenter import allowed, starts_automatically, why_not
from gpt_tui.tabs.train.run_panels import RunPanels
from gpt_tui.tabs.train.run_requests import RunRequests
from gpt_tui.tabs.train.welcome import Welcome

RUN_ACTIONS = frozenset(key.action for key in keys_of("train"))
SAMPLE_ACTIONS = frozenset(key.action.partition("(")[0] for key in keys_of("samples"))


class TrainTab(RunRequests):
    """Starts and controls runs, and shows the run of the session.

    Args:
        controller: The training session.
        settings: Settings of the next run.
        preset_name: Preset that the settings began with, "" for none.
        probes: Measurements of the set-up screen.
        countdown_s: Seconds after which a first run starts, 0 for no countdown.
        first_minutes: Time budget of the first run of the session, 0 for the settings as they are.
        guide: Notes that explain a first run, None for none.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("train", "samples")

    class SurpriseRequested(Message):
        """Request to color a sample by surprise."""

        def __init__(self, sample: Sample) -> None:
            super().__init__()
            self.sample = sample

    def __init__(
        self, controller: TrainingController, settings: Settings, preset_name: str, probes: Probes, *,
        countdown_s: float = 0.0, first_minutes: float = 0.0, guide: Guide | None = None, id: str,
    ) -> None:  # fmt: skip
        super().__init__(controller, settings, preset_name, probes, id=id)
        self._countdown_s = countdown_s
        self._first_minutes = first_minutes
        self._guide = guide or Guide("", None)

    def compose(self) -> ComposeResult:
        """Compose the welcome view and the run view, with the buttons below."""
        with ChartKeys(self._visible_charts, self._find_export, id="train-body"):
            with ContentSwitcher(initial="welcome", id="train-switcher"):
                yield Welcome(self._probes, id="welcome")
                yield RunPanels(self._guide, id="run")
            yield ButtonRow("train", id="controls")

    def on_mount(self) -> None:
        """Read the preview of the next run."""
        self.read_preview()

    def enter(self) -> Widget:
        """Return the widget to focus; called when the tab is shown."""
        return self.query_one(ChartKeys)

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

    @on(RunRequests.PreviewRead)
    def _preview_read(self, message: RunRequests.PreviewRead) -> None:
        self.preview = message.preview
        minutes, self._first_minutes = self._first_minutes, 0.0
        if minutes and self._controller.phase is Phase.IDLE and not message.preview.problem:
            self.choose_budget(minutes)  # its preview follows
        elif not self._controller.alive and self._controller.run.started is None:  # else the view is hidden
            if self._wait is not None:
                self._show_wait(self._wait, starts=self._wait.starts)
            else:
                self.query_one(Welcome).show_preview(
                    message.preview, self._next.changes, self._allowed(), self._next.model_reason
                )
                self._start_countdown()
        self.show_allowed()

    @on(RunRequests.RunRequested)
    def _run_requested(self) -> None:
        """End the countdown, and show the charts from their start: the place in them belongs to the run before."""
        self.cancel_countdown()
        self.charts.view = replace(self.charts.view.reset(), cursor=None)

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

    def show_ages(self, status: SessionStatus) -> None:
        """Update the ages of checkpoints and runs while no run is in progress; notice when another process ends one."""
        if self.preview.in_use and not is_trained_in(Path(self.preview.in_use)):
            self.preview = self.preview._replace(in_use="")
            self.read_preview()
        if self._shows_run:
            self._panels.show_ages(status)
        else:
            self.query_one(Welcome).show_ages()

    def show_allowed(self) -> None:
        """Enable the buttons and keys that work in the current phase."""
        self.query_one(ButtonRow).allow(self._allowed(), paused=self._controller.pausing)
        self.refresh_bindings()

    def _allowed(self) -> frozenset[str]:
        actions = allowed(
            self._controller.phase,
            can_resume=self.preview.stored.resumable is not None,
            is_changed=bool(self._next.changes),
            has_budget=self._can_choose_time,
        )
        if self._controller.unsaved:
            actions |= {"save"}
        return actions | {"start_now"} if self._countdown.running else actions

    @property
    def _can_choose_time(self) -> bool:
        """True before the first run of the session, where its settings can follow from a time budget."""
        return self._probes.budget is not None and self._controller.run.started is None

    # -- the countdown of a first start

    @property
    def _countdown(self) -> CountdownLine:
        return self.query_one(Welcome).countdown

    def _start_countdown(self) -> None:
        """Start the countdown, at most once, if this is the first start and there is no run to resume."""
        length_s, self._countdown_s = self._countdown_s, 0.0
        is_idle = self._controller.phase is Phase.IDLE and self.app.screen is self.screen
        if length_s > 0 and is_idle and starts_automatically(self.preview):
            self._countdown.start(self.preview, length_s)

    def cancel_countdown(self) -> None:
        """Cancel the countdown: no run starts until a key or a button is pressed."""
        self._countdown_s = 0.0
        if self._countdown.running:
            self._countdown.cancel()
            self.show_allowed()

    @on(CountdownLine.Finished)
    def _countdown_finished(self, message: CountdownLine.Finished) -> None:
        message.stop()
        if self.app.screen is self.screen:  # else a dialog was opened just before
            self.action_start()

    def action_start_now(self) -> None:
        """End the countdown and start the run."""
        self.cancel_countdown()
        self.action_start()

    # -- keys and buttons

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the actions of a run that do not work in this phase; hide those of samples where there is no run."""
        if action in RUN_ACTIONS:
            return True if action in self._allowed() else None
        return action not in SAMPLE_ACTIONS or self._shows_run

    def on_key(self, event: events.Key) -> None:
        """Cancel the countdown, or with Escape a requested start; show why a key does nothing."""
        action = action_of(event.key, "train", keymap_of(self.app))
        if action != "start_now":
            self.cancel_countdown()
        if event.key == "escape" and self._wait is not None and self._wait.starts:
            self._show_wait(self._wait, starts=False)
        if not action or action in self._allowed():
            return
        self._hints.show(why_not(action, self._controller.phase, self._shown_keys(), self.preview.in_use))

    @on(ButtonRow.Pressed)
    async def _button_pressed(self, message: ButtonRow.Pressed) -> None:
        message.stop()
        await self.run_action(message.action)

    # -- actions: control of the run

    def action_pause(self) -> None:
        """Pause after this step, or continue."""
        if self._controller.pausing:
            self._controller.unpause()
        else:
            self._controller.pause()
            self._show_pausing()
        self.show_allowed()

    def action_step(self) -> None:
        """Take one step, then pause; pause a run that is not paused."""
        pauses = not self._controller.pausing
        self._controller.single_step()
        if pauses:
            self._show_pausing()
        self.show_allowed()

    def _show_pausing(self) -> None:
        """Say that a pause waits for the end of an evaluation, as the phase is that of the evaluation until then."""
        if self._controller.phase is Phase.EVALUATING:
            self._notify_request("pausing")

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
        """Say what was requested, and that a step or an evaluation in progress is completed first."""
        waits_for = {Phase.PAUSED: "", Phase.EVALUATING: " after the evaluation"}
        self.notify(activity + waits_for.get(self._controller.phase, " after this step"))

    def action_stop(self) -> None:
        """Stop after this step and save."""
        self._controller.stop(may_ask=True)

    @property
    def pointed_step(self) -> int | None:
        """Step at the cursor of the charts, None without one."""
        return self._panels.pointed_step

    # -- actions: panels of the run

    def action_switch_notes(self) -> None:
        """Show the samples, the log in their place, or the samples without the charts."""
        self._panels.switch_notes()
        self.refresh_bindings()  # the chart keys work where charts are visible

    def action_toggle_status(self) -> None:
        """Show the status panel, or the line of figures in its place."""
        self._panels.toggle_status()

    def action_show_surprise(self) -> None:
        """Color the current sample by surprise."""
        if (sample := self._panels.current_sample) is not None:
            self.post_message(self.SurpriseRequested(sample))
        else:
            self.notify("no sample to color yet", severity="warning")

    def action_samples(self, number: int) -> None:
        """Scroll by `number` samples, or lines of the log."""
        self._panels.scroll_notes(number)

    def action_samples_page(self, pages: int) -> None:
        """Scroll by pages."""
        self._panels.scroll_notes_by_pages(pages)

    def action_samples_end(self, first: bool) -> None:
        """Scroll to the first sample or line, or to the newest one and follow it."""
        self._panels.scroll_notes_to_end(first=first)

    def action_close_note(self) -> None:
        """Close the note of the guide."""
        self._guide.close()
        self._panels.show_note()

    def action_switch_guide(self) -> None:
        """Switch the notes of the guide off for good, or on again."""
        self._guide.switch()
        self._panels.show_note()
        text = SWITCHED_OFF if self._guide.is_off else SWITCHED_ON
        self.notify(text.format(off=self._shown_keys()["switch_guide"]))
