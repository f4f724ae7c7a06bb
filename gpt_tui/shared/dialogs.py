"""Dialogs: a question with a key and a button per answer."""

from __future__ import annotations

from typing import NamedTuple

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Button, Static

from gpt_tui.shared.dialog import Dialog
from gpt_tui.shared.sanitize import one_line, printable


class Choice(NamedTuple):
    """One answer: its key, its label, and the value that the dialog returns."""

    key: str
    label: str
    value: str


class ChoiceScreen(Dialog[str]):
    """Dialog that returns the value of the chosen answer, "" if it is cancelled.

    Args:
        title: Title of the dialog.
        question: Text below the title.
        choices: Answers besides Cancel.
        careful: Focus Cancel instead of the first answer, so that Enter is harmless.
    """

    def __init__(self, title: str, question: str, choices: tuple[Choice, ...], *, careful: bool = False) -> None:
        super().__init__()
        self._title = title
        self._question = question
        self._choices = choices
        self._careful = careful

    def compose(self) -> ComposeResult:
        """Compose title, question and buttons."""
        with Vertical(id="dialog"):
            yield Static(Content.styled(self._title, "bold"), id="dialog-title", markup=False)
            yield Static(Content(printable(self._question)), id="dialog-question", markup=False)
            for choice in (*self._choices, Choice("esc", "Cancel", "cancel")):
                label = Content.assemble((choice.key.rjust(3), "bold $key"), f"  {choice.label}")
                yield Button(label, id=f"choice-{choice.value}", compact=True)

    def on_mount(self) -> None:
        """Focus Cancel in a careful dialog."""
        if self._careful:
            self.query_one("#choice-cancel").focus()

    def on_button_pressed(self, message: Button.Pressed) -> None:
        """Return the answer of the button."""
        message.stop()
        value = (message.button.id or "").removeprefix("choice-")
        self.dismiss("" if value == "cancel" else value)

    def on_key(self, event: events.Key) -> None:
        """Return the answer of a key; arrow keys move between the buttons."""
        if event.key == "escape":
            self.dismiss("")
        elif event.key in ("up", "left"):
            self.focus_previous()
        elif event.key in ("down", "right"):
            self.focus_next()
        elif chosen := next((choice for choice in self._choices if choice.key == event.key.lower()), None):
            self.dismiss(chosen.value)
        else:
            return
        event.stop()


def quit_question(text: str) -> ChoiceScreen:
    """Ask what to do with the run in progress when the user quits."""
    return ChoiceScreen(
        "Quit gpt-tui?",
        f"{text} Without saving, all steps since the last save are lost.",
        (
            Choice("s", "Save and quit", "save"),
            Choice("d", "Quit without saving", "discard"),
        ),
    )


def unsaved_question(error: str) -> ChoiceScreen:
    """Ask what to do with a run that has ended and could not be saved."""
    return ChoiceScreen(
        "The run is not saved",
        f"{error}. The steps since the last save are still in memory.",
        (
            Choice("s", "Try to save again", "again"),
            Choice("d", "Discard it", "discard"),
        ),
    )


def run_exists_question(error: str, beside: str, *, can_resume: bool) -> ChoiceScreen:
    """Ask whether to resume the run in the folder of a new one, to start in `beside`, or to replace it."""
    resume = (Choice("r", "Resume this run", "resume"),) if can_resume else ()
    return ChoiceScreen(
        "This folder already has a run",
        f"{error}. If you replace them, they are deleted at the first save of the new run.",
        (
            *resume,
            Choice("b", f"Start in a new folder, {one_line(beside)}", "beside"),
            Choice("d", "Replace and start", "overwrite"),
        ),
        careful=True,
    )


def delete_question(name: str, consequences: str) -> ChoiceScreen:
    """Ask whether to delete a checkpoint."""
    return ChoiceScreen(f"Delete {one_line(name)}?", consequences, (Choice("d", "Delete", "delete"),), careful=True)
