"""Prompt of the chat: a text area that grows with its text, up to a maximum height."""

from __future__ import annotations

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from gpt_tui.shared.bindings import release_keys
from gpt_tui.shared.formatting import integer
from gpt_tui.shared.pasting import pasted_text

MAX_PROMPT_CHARACTERS = 1 << 16  # the model reads only the end of a text that is longer than its context


class PromptArea(TextArea):
    """Text area without line numbers. Posts `Submitted` on Enter and `LineLeft` at its first and last line."""

    class Submitted(Message):
        """Enter was pressed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class LineLeft(Message):
        """The cursor is on the first line and moves up (`by` is -1), or on the last one and moves down (1)."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    def __init__(self, placeholder: str, *, id: str) -> None:
        super().__init__(
            id=id, placeholder=placeholder, show_line_numbers=False, tab_behavior="focus", highlight_cursor_line=False
        )

    def on_mount(self) -> None:
        """Leave the keys of the Chat tab to it, but for the arrow keys, which leave the text at its ends."""
        release_keys(self, "chat", "everywhere", but=("up", "down"))

    def show(self, text: str) -> None:
        """Replace the text and put the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def new_line(self) -> None:
        """Insert a line break at the cursor."""
        self._replace_via_keyboard("\n", *self.selection)

    def action_cursor_up(self, select: bool = False) -> None:
        """Move the cursor up, or leave the first line."""
        if not select and self.navigator.is_first_wrapped_line(self.cursor_location):
            self.post_message(self.LineLeft(-1))
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move the cursor down, or leave the last line."""
        if not select and self.navigator.is_last_wrapped_line(self.cursor_location):
            self.post_message(self.LineLeft(1))
        else:
            super().action_cursor_down(select)

    async def _on_key(self, event: events.Key) -> None:
        """Submit on Enter, which would insert a line break in `TextArea`."""
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.post_message(self.Submitted(self.text))

    async def _on_paste(self, event: events.Paste) -> None:
        """Clean the text, and keep only its end where it is too long; the handler of `TextArea` then inserts it."""
        event.stop()
        text = pasted_text(event.text)
        room = max(0, MAX_PROMPT_CHARACTERS - len(self.text) + len(self.selected_text))
        event.text = text[len(text) - room :] if len(text) > room else text
        if text and not room:
            self.notify(
                f"nothing was pasted: the prompt is full ({integer(MAX_PROMPT_CHARACTERS)} characters)",
                severity="warning",
            )
        elif len(text) > room:
            self.notify(
                f"a prompt holds {integer(MAX_PROMPT_CHARACTERS)} characters: pasted the last {integer(room)} of "
                f"{integer(len(text))}",
                severity="warning",
            )
