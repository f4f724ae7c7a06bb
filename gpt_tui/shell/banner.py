"""Banner: one line for important messages, such as the end of a run, an error, a save before exit."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from gpt_tui.shared.rows import Tone
from gpt_tui.shared.sanitize import one_line

SIGNS = {"good": "✓", "bad": "✗", "plain": "•", "dim": "•"}


class Banner(Static):
    """Line across the screen, hidden while it is empty.

    Attributes:
        text: The line.
        is_about_save: True if it says that a run is not saved, which the next save makes untrue.
    """

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.text = ""
        self.is_about_save = False

    def say(self, text: str, tone: Tone = "plain", *, is_about_save: bool = False) -> None:
        """Show a line; an empty one hides the banner."""
        self.text, self.is_about_save = one_line(text), is_about_save
        self.display = bool(text)
        for name in SIGNS:
            self.set_class(name == tone, f"-{name}")
        self.update(Content(f"{SIGNS[tone]} {self.text}"))

    def on_mount(self) -> None:
        """Hide the empty banner."""
        self.display = False
