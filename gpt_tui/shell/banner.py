"""Banner: one line for important messages, such as the end of a run, an error, a save before exit."""

from __future__ import annotations

from typing import Literal

from textual.content import Content
from textual.widgets import Static

from gpt_tui.shared.rows import Tone
from gpt_tui.shared.sanitize import one_line

About = Literal["", "save", "divergence"]
SIGNS = {"good": "✓", "bad": "✗", "plain": "•", "dim": "•"}


class Banner(Static):
    """Line across the screen, hidden while it is empty.

    Attributes:
        text: The line.
        about: What makes the line untrue once it is over: a failed save, until the next one; a divergence, until the
            train loss has recovered; "" for any other line.
    """

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.text = ""
        self.about: About = ""

    def say(self, text: str, tone: Tone = "plain", *, about: About = "") -> None:
        """Show a line; an empty one hides the banner."""
        self.text, self.about = one_line(text), about
        self.display = bool(text)
        for name in SIGNS:
            self.set_class(name == tone, f"-{name}")
        self.update(Content(f"{SIGNS[tone]} {self.text}"))

    def withdraw(self, about: About) -> None:
        """Hide the banner if its line is about this."""
        if self.about == about:
            self.say("")

    def on_mount(self) -> None:
        """Hide the empty banner."""
        self.display = False
