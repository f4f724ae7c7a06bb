"""State of the set-up form, and the result of its screen. Does not import Textual."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpt_core.config.presets import DEFAULT_PRESET, PRESETS
from gpt_core.config.settings import Settings
from gpt_tui.new_run.fields import INDEPENDENT, Validated, changed, texts_of


@dataclass(frozen=True)
class FormState:
    """State of the form.

    Attributes:
        preset_name: The selected preset.
        texts: The text of each field.
        typed: Names of the fields that were typed or selected, which a time budget does not change.
        model_reason: Why a time budget has led to these texts, "" if it has not.
    """

    preset_name: str
    texts: dict[str, str]
    typed: frozenset[str] = frozenset()
    model_reason: str = ""


@dataclass(frozen=True)
class SetupResult:
    """Result of the screen.

    Attributes:
        form_state: What was typed.
        validated: Its settings, or the problems of an invalid form.
        starts: True to start the run.
    """

    form_state: FormState
    validated: Validated
    starts: bool = False


def initial_form_state(settings: Settings, preset_name: str) -> FormState:
    """Return the form filled with settings."""
    return FormState(preset_name if preset_name in PRESETS else DEFAULT_PRESET, texts_of(settings))


def copied_form_state(settings: Settings, preset_name: str) -> FormState:
    """Return the form filled with settings of another run; those that differ from its preset count as typed."""
    form_state = initial_form_state(settings, preset_name)
    differing = changed(form_state.texts, form_state.preset_name) - {"minutes"}
    return replace(form_state, typed=differing | {"preset"})


def typed_after(typed: frozenset[str], name: str) -> frozenset[str]:
    """Return the names of the typed fields after another one; "" is the preset, which sets all but a few."""
    return typed | {name} if name else (typed & frozenset(INDEPENDENT)) | {"preset"}
