"""Dialog that asks for the name of a file."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static

from gpt_tui.shared.dialog import Dialog
from gpt_tui.shared.pasting import LineInput


class FileNameScreen(Dialog[str]):
    """Returns the name that was typed, "" if the dialog is cancelled. Typing replaces the default name."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "Cancel", key_display="esc")]

    def __init__(self, title: str, text: str, name: str) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._name = name

    def compose(self) -> ComposeResult:
        """Compose title, text and input."""
        with Vertical(id="dialog"):
            yield Static(Content.styled(self._title, "bold"), id="dialog-title", markup=False)
            yield Static(Content(self._text), id="dialog-question", markup=False)
            yield LineInput(self._name, id="file-name", compact=True)

    @on(Input.Submitted)
    def _named(self, message: Input.Submitted) -> None:
        message.stop()
        if name := message.value.strip():
            self.dismiss(name)
