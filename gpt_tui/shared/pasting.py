"""Cleaning of pasted text, and the field of one line, which keeps all lines of a paste."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from gpt_tui.shared.formatting import integer

MAX_LINE_CHARACTERS = 4096
# Control characters except tab and line feed, and lone surrogates: they have no meaning in a text field.
_REMOVED = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)])


def pasted_text(text: str) -> str:
    """Return pasted text with line feeds as its line breaks, without other control characters than tabs."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_REMOVED)


class LineInput(Input):
    """Field of one line. The lines of a paste are joined with spaces, which a notification reports."""

    def _on_paste(self, event: events.Paste) -> None:
        """Join the lines; the handler of `Input`, which keeps the first line only, then inserts them."""
        lines = [line.strip() for line in pasted_text(event.text).splitlines()]
        lines = [line for line in lines if line]
        joined = " ".join(lines)
        event.text = joined[:MAX_LINE_CHARACTERS]
        if len(joined) > MAX_LINE_CHARACTERS:
            self.notify(f"pasted only the first {integer(MAX_LINE_CHARACTERS)} characters", severity="warning")
        elif len(lines) > 1:
            self.notify(f"pasted {integer(len(lines))} lines as one, joined with spaces")
