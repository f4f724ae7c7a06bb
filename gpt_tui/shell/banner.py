"""One line across the screen for what the user must not miss: a run's end, an error, a save on the way out."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from gpt_tui.session.run_state import Tone
from gpt_tui.shared.sanitize import one_line

SIGNS = {"good": "✓", "bad": "✗", "plain": "•", "dim": "•"}


class Banner(Static):
    """Hidden while it has nothing to say."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.text = ""

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Shows a line; an empty one hides the banner."""
        self.text = one_line(text)
        self.display = bool(text)
        for name in SIGNS:
            self.set_class(name == tone, f"-{name}")
        self.update(Content(f"{SIGNS[tone]} {self.text}"))

    def on_mount(self) -> None:
        """Nothing yet."""
        self.display = False
