"""Dialog that gives a finished run more steps or epochs before it is resumed."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Button, Input, Label, Static

from gpt_core.config.settings import NO_EPOCH_LIMIT
from gpt_core.config.validation import checked, parsed
from gpt_core.errors import ConfigError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.training.request import raised_limits
from gpt_tui.session.outcome_text import ENDINGS
from gpt_tui.shared.dialog import Dialog
from gpt_tui.shared.formatting import integer
from gpt_tui.shared.pasting import LineInput
from gpt_tui.shared.sanitize import one_line

LABELS = {
    "max_steps": "total max_steps (0: no limit)",
    "minutes": "total minutes (0: no limit)",
    "max_epochs": f"total max_epochs ({NO_EPOCH_LIMIT}: no limit)",
    "patience": "patience (0: never stop early)",
    "overfit_steps": "total overfit_steps",
}


LIMITS_TEXT = "New limits, counted from the first step of the run:"


def end_of_run(info: CheckpointInfo) -> str:
    """Return why the run of a checkpoint has ended, "" if it has not."""
    raised = raised_limits(info)
    if info.state.finished in ("early_stopping", "epsilon"):
        return ENDINGS[info.state.finished]
    reasons = {
        "max_steps": "max_steps",
        "minutes": "deadline",
        "max_epochs": "max_epochs",
        "overfit_steps": "overfit_done",
    }
    return next((ENDINGS[reason] for name, reason in reasons.items() if name in raised), "")


def limits_to_ask(info: CheckpointInfo) -> dict[str, str]:
    """Return the limits of a resumed run with the values that the dialog suggests, as text."""
    time = ("minutes",) if info.settings.minutes else ()
    names = ("overfit_steps",) if info.settings.overfit_tiny else ("max_steps", "max_epochs", "patience")
    raised = raised_limits(info)
    return {name: f"{raised.get(name, getattr(info.settings, name)):.15g}" for name in (*time, *names)}


class ResumeScreen(Dialog[dict[str, object] | None]):
    """Returns the settings that were changed or raised, None if the dialog is cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel", key_display="esc")]

    def __init__(self, info: CheckpointInfo) -> None:
        super().__init__()
        self._info = info

    def compose(self) -> ComposeResult:
        """Compose title, text, one input per limit and the buttons."""
        ended = f"It ended at step {integer(self._info.step)}: {end_of_run(self._info)}."
        with Vertical(id="dialog"):
            yield Static(Content.styled("Train a finished run longer", "bold"), id="dialog-title", markup=False)
            yield Static(Content(f"{ended} {LIMITS_TEXT}"), id="dialog-question", markup=False)
            for name, value in limits_to_ask(self._info).items():
                yield Label(LABELS[name], markup=False)
                yield LineInput(value, id=f"limit-{name}", compact=True)
            yield Static("", id="dialog-error", markup=False)
            yield Button("Resume", id="resume-run", compact=True)
            yield Button("Cancel", id="resume-cancel", compact=True)

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self._resume()

    @on(Button.Pressed)
    def _pressed(self, message: Button.Pressed) -> None:
        message.stop()
        if message.button.id == "resume-run":
            self._resume()
        else:
            self.dismiss(None)

    def _resume(self) -> None:
        """Return the limits, or show why one of them is not valid."""
        changes: dict[str, object] = {}
        try:
            for name in limits_to_ask(self._info):
                typed = self.query_one(f"#limit-{name}", Input).value.strip().replace(",", "")
                changes[name] = checked(name, parsed(name, typed))
            self._check_leaves_a_step(changes)
        except ConfigError as error:
            self.query_one("#dialog-error", Static).update(Content(one_line(str(error))))
            return
        self.dismiss(changes)

    def _check_leaves_a_step(self, changes: dict[str, object]) -> None:
        """Raise ConfigError if a limit is reached already."""
        state = self._info.state
        for name, done in (
            ("max_steps", state.step), ("overfit_steps", state.step), ("max_epochs", state.epoch),
            ("minutes", round(state.elapsed_s / 60, 2)),
        ):  # fmt: skip
            value = changes.get(name)
            if isinstance(value, int | float) and 0 < value <= done:
                raise ConfigError(f"{name}: got {value:g}, expected more than {done:g}, where the run has ended")
