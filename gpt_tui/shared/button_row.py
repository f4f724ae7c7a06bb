"""A row of buttons: one for each key of some places of the table that has one."""

from __future__ import annotations

from collections.abc import Set

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Button

from gpt_tui.shared.keymap import Key, Place, keys_of, shown_key


class ButtonRow(Horizontal):
    """Each button runs the action of its key; which ones can be pressed comes in by `allow`."""

    def __init__(self, *places: Place, id: str) -> None:
        super().__init__(id=id)
        self._keys = [key for key in keys_of(*places) if key.button]

    def compose(self) -> ComposeResult:
        """A button for each command, its key first."""
        for key in self._keys:
            yield Button(
                self._label(key, key.label), id=f"button-{key.action}", compact=True, tooltip=key.help,
                action=f"screen.{key.action}",
            )  # fmt: skip

    def allow(self, actions: Set[str], *, paused: bool = False) -> None:
        """Enables the buttons of these actions; the pause button says what it would do."""
        for key in self._keys:
            button = self.query_one(f"#button-{key.action}", Button)
            button.disabled = key.action not in actions
            if key.action == "pause":
                label = self._label(key, "Go on" if paused else key.label)
                if str(button.label) != str(label):
                    button.label = label

    def _label(self, key: Key, words: str) -> Content:
        return Content.assemble((shown_key(key, dict(self.app._keymap)), "bold $key"), " ", words)
