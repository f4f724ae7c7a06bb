"""Row of buttons for keys of the key table."""

from __future__ import annotations

from collections.abc import Set

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Button

from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.keymap import Key, Place, keys_of, shown_key


class ButtonRow(Horizontal):
    """Buttons of the keys of some places. Posts `Pressed` with the action of the key."""

    class Pressed(Message):
        """A button was pressed."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self, *places: Place, id: str) -> None:
        super().__init__(id=id)
        self._keys = [key for key in keys_of(*places) if key.button]

    def compose(self) -> ComposeResult:
        """Compose a button per key, labeled with key and name."""
        for key in self._keys:
            yield Button(self._label(key, key.label), id=f"button-{key.action}", compact=True, tooltip=key.help)

    @on(Button.Pressed)
    def _button_pressed(self, message: Button.Pressed) -> None:
        message.stop()
        self.post_message(self.Pressed((message.button.id or "").removeprefix("button-")))

    def allow(self, actions: Set[str], *, paused: bool = False) -> None:
        """Enable the buttons of these actions, and label the pause button with its effect."""
        for key in self._keys:
            button = self.query_one(f"#button-{key.action}", Button)
            button.disabled = key.action not in actions
            words = "Continue" if paused and key.action == "pause" else key.label
            label, before = self._label(key, words, enabled=not button.disabled), button.label
            if not (isinstance(before, Content) and label.is_same(before)):
                button.label = label
                button.refresh(layout=str(label) != str(before))  # if its width has changed

    def _label(self, key: Key, words: str, *, enabled: bool = True) -> Content:
        name = (shown_key(key, keymap_of(self.app)), "bold $key" if enabled else "")
        return Content.assemble(name, " ", words)
