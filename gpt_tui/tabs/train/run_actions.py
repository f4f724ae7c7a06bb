"""What the Train tab's keys and buttons ask of the controller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
from textual.screen import Screen

from gpt_core.config.settings import Settings
from gpt_core.training.request import RunRequest
from gpt_tui.new_run.probe import Probes
from gpt_tui.new_run.screen import FormState, SetupResult, SetupScreen, first_draft
from gpt_tui.run_view.status import Phase
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.overfit_folder import overfit_folder
from gpt_tui.shared.dialogs import run_exists_question
from gpt_tui.shared.keymap import keys_of

RUN_ACTIONS = frozenset(key.action for key in keys_of("train"))


class RunActions(Screen[None]):
    """The actions of the key table's "train" keys, for the screen that shows the run."""

    controller: TrainingController
    settings: Settings
    preset_name: str
    probes: Probes
    _draft: FormState | None = None

    def take_settings(self, settings: Settings, preset_name: str) -> None:
        """Other settings are the app's own from now on."""
        self.settings, self.preset_name = settings, preset_name

    def begun(self) -> None:
        """A run begins: to be shown."""
        raise NotImplementedError

    def show(self, *, at_once: bool = False) -> None:
        """Brings the screen up to what the controller has done."""
        raise NotImplementedError

    def begin(self, request: RunRequest) -> None:
        """Starts a run, if none is under way."""
        if self.controller.start(request):
            self.begun()

    def resume_from(self, path: Path) -> None:
        """The run of a checkpoint goes on in the checkpoint's folder, with the settings it was saved with."""
        settings = msgspec.structs.replace(self.settings, models_dir=str(path.parent))
        self.begin(RunRequest(settings, self.preset_name, resume=path, as_saved=True))

    def action_start(self) -> None:
        """A new run with the settings given."""
        self.begin(RunRequest(self.settings, self.preset_name))

    def action_setup(self) -> None:
        """Every setting, before a run; what was typed there last is there again."""

        def left(set_up: SetupResult | None) -> None:
            if set_up is None:
                return
            self._draft = set_up.draft
            if set_up.settings is not None:
                self.take_settings(set_up.settings, set_up.preset_name)
                self.action_start()

        draft = self._draft or first_draft(self.settings, self.preset_name)
        self.app.push_screen(SetupScreen(draft, self.probes), left)

    def action_overfit(self) -> None:
        """Start a tiny-overfit run in a folder of its own, where it replaces an earlier one and no other run."""
        folder = str(overfit_folder(self.settings.models_dir))
        settings = msgspec.structs.replace(self.settings, overfit_tiny=True, models_dir=folder)
        self.begin(RunRequest(settings, self.preset_name, overwrite=True))

    def action_resume(self) -> None:
        """The run of the newest checkpoint goes on, with the settings it was started with."""
        self.begin(RunRequest(self.settings, self.preset_name, resume="newest"))

    def action_pause(self) -> None:
        """Pause, or go on."""
        if self.controller.phase in (Phase.PAUSED, Phase.PAUSING):
            self.controller.unpause()
        else:
            self.controller.pause()
        self.show(at_once=True)

    def action_step(self) -> None:
        """One step."""
        self.controller.single_step()
        self.show(at_once=True)

    def action_save(self) -> None:
        """A checkpoint."""
        self.controller.save()
        self.notify("saving after this step")

    def action_evaluate(self) -> None:
        """A score."""
        self.controller.evaluate()
        self.notify("evaluating after this step")

    def action_stop(self) -> None:
        """The end of the run."""
        self.controller.stop(may_ask=True)
        self.show(at_once=True)

    def ask_about_existing_run(self, error: str, *, can_resume: bool) -> None:
        """Another run's checkpoints are in the way of the run that was asked for."""
        request = self.controller.request
        assert request is not None

        def answered(answer: str | None) -> None:
            if answer == "resume":
                self.action_resume()
            elif answer == "overwrite":
                self.begin(replace(request, overwrite=True))

        self.app.push_screen(run_exists_question(error, can_resume=can_resume), answered)
