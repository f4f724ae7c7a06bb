"""A question with a few answers, each with its key and its button."""

from __future__ import annotations

from typing import NamedTuple

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from gpt_tui.shared.sanitize import one_line, printable


class Choice(NamedTuple):
    """One answer: its key, its words, what the screen returns for it."""

    key: str
    words: str
    value: str


class ChoiceScreen(ModalScreen[str]):
    """Asks; returns the chosen value, and "" for escape. The first choice has the focus, or with `careful` staying."""

    def __init__(self, title: str, question: str, choices: tuple[Choice, ...], *, careful: bool = False) -> None:
        super().__init__()
        self._title = title
        self._question = question
        self._choices = choices
        self._careful = careful

    def compose(self) -> ComposeResult:
        """Title, question, buttons."""
        with Vertical(id="dialog"):
            yield Static(Content.styled(self._title, "bold"), id="dialog-title", markup=False)
            yield Static(Content(printable(self._question)), id="dialog-question", markup=False)
            for choice in (*self._choices, Choice("esc", "Stay", "stay")):
                label = Content.assemble((choice.key.rjust(3), "bold $key"), f"  {choice.words}")
                yield Button(label, id=f"choice-{choice.value}", compact=True)

    def on_mount(self) -> None:
        """Where a slip of the finger must not cost anything, enter stays."""
        if self._careful:
            self.query_one("#choice-stay").focus()

    def on_button_pressed(self, message: Button.Pressed) -> None:
        """The mouse, or enter."""
        message.stop()
        value = (message.button.id or "").removeprefix("choice-")
        self.dismiss("" if value == "stay" else value)

    def on_key(self, event: events.Key) -> None:
        """A choice's own key; arrows move between the buttons."""
        if event.key == "escape":
            self.dismiss("")
        elif event.key in ("up", "left"):
            self.focus_previous()
        elif event.key in ("down", "right"):
            self.focus_next()
        elif chosen := next((choice for choice in self._choices if choice.key == event.key), None):
            self.dismiss(chosen.value)
        else:
            return
        event.stop()


def quit_question(words: str) -> ChoiceScreen:
    """What to do with a run that is under way when the user quits."""
    return ChoiceScreen(
        "Quit gpt-tui?",
        f"{words} What is trained since the last save is lost if you do not save.",
        (
            Choice("s", "Save and quit", "save"),
            Choice("d", "Quit without saving", "discard"),
        ),
    )


def unsaved_question(error: str) -> ChoiceScreen:
    """What to do with a run that has ended and could not be saved."""
    return ChoiceScreen(
        "The run is not saved",
        f"{error}. What was trained since the last save is still in memory.",
        (
            Choice("s", "Try to save again", "again"),
            Choice("d", "Discard it", "discard"),
        ),
    )


def run_exists_question(error: str, *, can_resume: bool) -> ChoiceScreen:
    """What to do when another run's checkpoints are where a new one would save."""
    resume = (Choice("r", "Resume that run", "resume"),) if can_resume else ()
    what, _, _options = error.partition("; ")  # of the command line, which the answers stand for here
    return ChoiceScreen(
        "Another run is there",
        f"{what}. To keep it, set up the new run with another models_dir; else they go at the new run's first save.",
        (*resume, Choice("d", "Replace them and start", "overwrite")),
        careful=True,
    )


def delete_question(name: str, words: str) -> ChoiceScreen:
    """Whether a checkpoint is to go; `words` say what is lost with it."""
    return ChoiceScreen(f"Delete {one_line(name)}?", words, (Choice("d", "Delete it", "delete"),), careful=True)
