"""Requests to start or resume a run, with the dialogs before it: the part of the Train tab that needs no display."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from textual import on, work
from textual.containers import Vertical
from textual.message import Message

from gpt_core.checkpoints.folders import next_free_folder
from gpt_core.config.settings import Settings
from gpt_core.config.validation import checked, names_as_text, parsed
from gpt_core.errors import CheckpointError, ConfigError
from gpt_core.formats.checkpoint_header import CheckpointInfo, peek_checkpoint
from gpt_core.training.fine_tuning import full_rates, settings_to_fine_tune
from gpt_core.training.request import RunRequest, with_micro_batches
from gpt_tui.new_run.form_state import FormState, copied_form_state
from gpt_tui.new_run.probe import BudgetChosen, Probes, choose_in_thread
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.session.controller import Failure, TrainingController
from gpt_tui.session.overfit_folder import overfit_folder
from gpt_tui.session.run_preview import RunPreview, read_preview, shown_path, stored_checkpoints
from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.dialogs import run_exists_question
from gpt_tui.shared.file_name_dialog import FileNameScreen
from gpt_tui.shared.keymap import shown_keys
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.train.key_hints import KeyHints
from gpt_tui.tabs.train.next_run import NextRun
from gpt_tui.tabs.train.presenter import next_budget, why_not
from gpt_tui.tabs.train.resume_dialog import ResumeScreen, end_of_run
from gpt_tui.tabs.train.welcome import Welcome

RESUME_TEXT = (
    "Name the file, and press Enter to resume the run with it (Esc: cancel). To train on a text that has changed, name "
    "a copy under another name, or fine-tune a checkpoint (Checkpoints tab)."
)


def info_to_resume(request: RunRequest) -> CheckpointInfo | None:
    """Return the header of the checkpoint that a request resumes, None if there is no valid one."""
    if not isinstance(request.resume, Path):
        return stored_checkpoints(request.settings.models_dir).resumable
    try:
        return peek_checkpoint(request.resume)
    except CheckpointError:
        return None


@dataclass(eq=False)
class BudgetWait:
    """Wait for the settings that follow from a time budget.

    Attributes:
        choose: Returns the run, in a thread that measures this machine.
        minutes: The time budget.
        starts: True if the run starts once its settings are chosen.
    """

    choose: Callable[[], RunRequest]
    minutes: float
    starts: bool = False


class RunRequests(Vertical):
    """Base of the Train tab: the settings of the next run and the requests of runs.

    Args:
        controller: The training session.
        settings: Settings of the next run.
        preset_name: Preset that the settings began with, "" for none.
        probes: Measurements of the set-up screen.
    """

    class RunRequested(Message):
        """A run has been requested and is opening."""

    class FailureDismissed(Message):
        """The failure of a run that could not start has been dismissed, as its cause may be gone."""

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
        self, controller: TrainingController, settings: Settings, preset_name: str, probes: Probes, *, id: str
    ) -> None:
        super().__init__(id=id)
        self._controller = controller
        self._probes = probes
        self._next = NextRun(settings, preset_name)
        self.preview = RunPreview(settings, preset_name)
        self._hints = KeyHints(self)
        self._wait: BudgetWait | None = None

    @property
    def settings(self) -> Settings:
        """Settings of the next run."""
        return self._next.settings

    def _shown_keys(self) -> dict[str, str]:
        return shown_keys(keymap_of(self.app))

    # -- preview and settings

    def read_preview(self, *, after_run: bool = False) -> None:
        """Find the text and the checkpoints of the next run, in a thread.

        Args:
            after_run: True at the end of a run. Otherwise the failure of a run that could not start is dismissed.
        """
        if not after_run and self._controller.dismiss_failure():
            self.post_message(self.FailureDismissed())
        self.run_worker(self._read_preview, thread=True, exclusive=True, group="preview", exit_on_error=False)

    def _read_preview(self) -> None:
        request = self._controller.request
        session_dir = request.settings.models_dir if request else ""
        found = read_preview(self.settings, self._next.preset_name, session_dir, self._probes.hosts)
        self.post_message(self.PreviewRead(found))

    def _settings_changed(self) -> None:
        self.read_preview()
        self.post_message(self.SettingsChanged(self.settings, self._next.preset_name))

    # -- time budget

    def choose_budget(self, minutes: float) -> None:
        """Measure this machine, in a thread, and take the settings that follow from a time budget."""
        assert self._probes.budget is not None
        self._wait = wait = BudgetWait(partial(self._probes.budget, minutes), minutes)
        self._show_wait(wait, starts=False)
        choose_in_thread(wait.choose, self.post_message)

    @on(BudgetChosen)
    def _budget_chosen(self, message: BudgetChosen) -> None:
        wait = self._wait
        if wait is None or message.choose is not wait.choose:
            return  # another time was chosen, or other settings were typed meanwhile
        self._wait = None
        if message.request is not None and not self._controller.alive:
            self._next.follow_budget(message.request)
        if message.problem:
            self.notify(f"time not chosen: {message.problem}", severity="warning", markup=False)
        self._settings_changed()
        if wait.starts and not message.problem:
            self._start()

    def action_next_budget(self) -> None:
        """Choose the next longer time budget, the shortest one after the longest."""
        self.choose_budget(next_budget(self.settings.minutes if self._wait is None else self._wait.minutes))

    # -- requests

    def request_run(self, request: RunRequest) -> None:
        """Start a run, unless one is in progress."""
        if self._controller.start(request):
            self._wait = None
            self.query_one(Welcome).stop_measuring()
            self.post_message(self.RunRequested())

    def resume_from(self, path: Path, info: CheckpointInfo | None) -> None:
        """Resume the run of a checkpoint in the folder of the checkpoint, with the settings saved in it.

        Args:
            path: The checkpoint.
            info: Its header, None if it is not valid: the run reports why.
        """
        settings = msgspec.structs.replace(self.settings, models_dir=str(path.parent))
        self._resume(RunRequest(settings, self._next.preset_name, resume=path, as_saved=True), info)

    def _resume(self, request: RunRequest, info: CheckpointInfo | None) -> None:
        """Resume a run; of one that has ended, ask for its new limits first."""
        if info is None or not end_of_run(info):
            self.request_run(request)
            return

        def answered(changes: dict[str, object] | None) -> None:
            if changes is not None:
                self.request_run(request.with_changes(**changes))

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

    def ask_about_failure(self, failure: Failure) -> None:
        """Ask what helps against the failure of a start: another folder, or the name of a text."""
        if failure.run_exists:
            self.ask_about_existing_run(failure.message)
        else:
            self.ask_for_text(failure)

    @work(exclusive=True, group="request")
    async def ask_for_text(self, failure: Failure) -> None:
        """Ask for the text that a run could not be resumed without, and resume the run with it.

        The proposed name is the one that was typed last, else that of the next run, else that of the run itself.
        """
        request, setting = self._controller.request, failure.missing_text
        assert request is not None
        proposed: Any = request.changes.get(setting) or getattr(self.settings, setting)
        if not proposed:
            info = await asyncio.to_thread(info_to_resume, request)
            proposed = getattr(info.settings, setting) if info else ""
        title = f"With which {'training' if setting == 'train_file' else 'eval'} text is this run resumed?"
        name, problem = names_as_text(proposed), failure.message
        while name := await self.app.push_screen_wait(FileNameScreen(title, f"{problem}. {RESUME_TEXT}", name)):
            try:
                named = checked(setting, parsed(setting, name))
            except ConfigError as error:
                problem = one_line(error.reason)
            else:
                self.request_run(request.with_changes(**{setting: named}))
                return

    def action_start(self) -> None:
        """Start a new run, once its settings are chosen."""
        if self._wait is not None:
            self._show_wait(self._wait, starts=True)
        else:
            self._start()

    def _show_wait(self, wait: BudgetWait, *, starts: bool) -> None:
        wait.starts = starts
        self.query_one(Welcome).show_measuring(wait.minutes, self.preview, starts=starts)

    def _start(self) -> None:
        self.request_run(RunRequest(self.settings, self._next.preset_name, model_reason=self._next.model_reason))

    @work(exclusive=True, group="request")
    async def action_setup(self) -> None:
        """Open the set-up screen with the last input. The next run has what is typed there."""
        shown = self._next.form_state
        await self._set_up(lambda: shown, keeps_changes=True)

    @work(exclusive=True, group="request")
    async def set_up_copy(
        self, folder: Path, settings: Settings, preset_name: str, started: Callable[[Settings], None]
    ) -> None:
        """Open the set-up screen with the settings of another run; leaving it without a start changes nothing.

        Args:
            folder: Folder of that run; the copy is saved beside it.
            settings: Settings of that run.
            preset_name: Preset of that run.
            started: Called with the settings of the run that is started.
        """

        def read() -> FormState:
            beside = next_free_folder(folder)
            return self._copied(msgspec.structs.replace(settings, models_dir=str(beside)), preset_name)

        if await self._set_up(read, focus="learning_rate"):
            started(self.settings)

    @work(exclusive=True, group="request")
    async def set_up_fine_tuning(self, path: Path) -> None:
        """Open the set-up screen for a run that starts from a checkpoint; leaving it changes nothing."""
        here = self.settings

        def read() -> FormState:
            resolved = settings_to_fine_tune(path, here)
            return self._copied(resolved.settings, resolved.preset)

        await self._set_up(read, focus="train_file")

    def _copied(self, settings: Settings, preset_name: str) -> FormState:
        """Return the form with these settings, and a micro-batch for each of several ranks."""
        return copied_form_state(with_micro_batches(settings, self._probes.ranks), preset_name)

    async def _set_up(
        self, read: Callable[[], FormState], *, focus: str = "preset", keeps_changes: bool = False
    ) -> bool:
        """Open the set-up screen; return whether its run was started.

        Args:
            read: Returns the initial state of the form, in a thread.
            focus: Name of the field that has the focus at first.
            keeps_changes: True if what is typed is also kept without a start, for the next run.
        """
        if self._controller.alive:
            keys = self._shown_keys()
            keys["stop"] = f"{keys['train']}, then {keys['stop']}"  # the request comes from another tab
            self._hints.show(why_not("setup", self._controller.phase, keys))
            return False
        if self._wait is not None:
            self._wait.starts = False
        self.query_one(Welcome).stop_measuring()
        self.app.clear_notifications()  # they would cover the fields
        result = await self.app.push_screen_wait(SetupScreen(read, self._probes, focus=focus))
        if result is None or not (result.starts or keeps_changes):
            self.read_preview()  # a time budget may have been chosen meanwhile
            return False
        self._wait = None  # what was typed counts
        if problem := self._next.configure(result):
            self.notify(f"settings not changed: {one_line(problem)}", severity="warning", markup=False)
            self.read_preview()
            return False
        self._settings_changed()
        if result.starts:
            self._start()
        return result.starts

    def action_defaults(self) -> None:
        """Go back to the settings that the program started with."""
        self._next.reset()
        self._settings_changed()

    @work(exclusive=True, group="request")
    async def action_overfit(self) -> None:
        """Start an overfit run in a folder of its own, which replaces no run but an earlier overfit run.

        A time budget does not apply to it.
        """
        folder = await asyncio.to_thread(overfit_folder, self.settings.models_dir)
        settings = msgspec.structs.replace(self.settings, overfit_tiny=True, minutes=0.0, models_dir=str(folder))
        if settings.init_from:
            settings = msgspec.structs.replace(settings, **full_rates(settings.shape))
        self.request_run(RunRequest(settings, self._next.preset_name, overwrite=True))

    def action_resume(self) -> None:
        """Resume the newest checkpoint of the run that the preview names, with the settings saved in it."""
        resumable, settings = self.preview.stored.resumable, self.settings
        if resumable is not None:
            settings = msgspec.structs.replace(settings, models_dir=str(resumable.path.parent))
        self._resume(RunRequest(settings, self._next.preset_name, resume="newest"), resumable)
