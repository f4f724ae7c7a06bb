"""Settings of the next run: what was configured last, and the settings of the start of the program to go back to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from gpt_core.config.fine_tuning import FROM_FILE, base_settings
from gpt_core.config.presets import preset
from gpt_core.config.settings import GROUP_RATES, LEARNING_RATE, Settings
from gpt_core.training.fine_tuning import nearest_preset
from gpt_core.training.request import RunRequest
from gpt_tui.new_run.fields import INDEPENDENT, named_preset, text_of
from gpt_tui.new_run.form_state import FormState, SetupResult, initial_form_state


@dataclass
class NextRun:
    """Settings of the next run.

    Attributes:
        settings: The settings.
        preset_name: Preset with the shape of the model, "" for a custom shape.
        model_reason: Why a time budget has led to these settings, "" if it has not.
    """

    settings: Settings
    preset_name: str
    model_reason: str = ""
    _defaults: tuple[Settings, str, str] = field(init=False)
    _form_state: FormState | None = None

    def __post_init__(self) -> None:
        """Keep the settings to go back to."""
        self._defaults = (self.settings, self.preset_name, self.model_reason)

    @property
    def form_state(self) -> FormState:
        """Initial state of the set-up form: the last edited one, else the settings."""
        return self._form_state or initial_form_state(self.settings, self.preset_name)

    @property
    def changes(self) -> dict[str, str]:
        """The settings that differ from those of the start of the program, as text."""
        base, base_preset, _ = self._defaults
        own = {name: getattr(base, name) for name in INDEPENDENT}
        changed_preset = {}
        if self.preset_name and self.preset_name != base_preset:
            changed_preset = {"preset": self.preset_name}
            base = msgspec.structs.replace(preset(self.preset_name), **own)
        if (init_from := self.settings.init_from) and init_from != base.init_from:
            from_file = {name: getattr(self.settings, name) for name in FROM_FILE}
            defaults = base_settings(nearest_preset(self.settings.shape), init_from)
            base, changed_preset = msgspec.structs.replace(defaults, **(own | from_file)), {}
        before, now = (msgspec.structs.asdict(settings) for settings in (base, self.settings))
        changes = {name: text_of(name, value) for name, value in now.items() if value != before[name]}
        if changes.keys() >= set(GROUP_RATES) and (rate := self.settings.learning_rate) is not None:
            changes = {LEARNING_RATE: text_of(LEARNING_RATE, rate)} | {
                name: text for name, text in changes.items() if name not in GROUP_RATES
            }
        return changed_preset | changes

    def configure(self, result: SetupResult) -> str:
        """Take what was typed in the set-up screen. Return the first problem of an invalid form, which is not used."""
        self._form_state = form_state = result.form_state
        settings, problems = result.validated
        if settings is None:
            return next(iter(problems.values()))
        if settings != self.settings or form_state.model_reason:
            self.model_reason = form_state.model_reason
        self.settings, self.preset_name = settings, named_preset(settings, form_state.preset_name)
        return ""

    def follow_budget(self, request: RunRequest) -> None:
        """Take the settings that follow from a time budget; they become those to go back to."""
        models_dir = self.settings.models_dir
        self.settings = msgspec.structs.replace(request.settings, models_dir=models_dir)
        self.preset_name, self.model_reason = request.preset_name, request.model_reason
        self._defaults, self._form_state = (self.settings, self.preset_name, self.model_reason), None

    def use_folder(self, models_dir: Path) -> None:
        """Save the next run in another folder."""
        self.settings = msgspec.structs.replace(self.settings, models_dir=str(models_dir))
        if self._form_state is not None:
            texts = self._form_state.texts | {"models_dir": str(models_dir)}
            self._form_state = replace(self._form_state, texts=texts)

    def reset(self) -> None:
        """Go back to the settings of the start of the program."""
        (self.settings, self.preset_name, self.model_reason), self._form_state = self._defaults, None
