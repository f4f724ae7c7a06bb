"""Parser of terminal input that takes all of a bracketed paste for text.

Textual's parser takes an escape sequence within a paste, as in a colored log, for keys: they are commands of the app,
and arrive before the text. Terminals such as tmux do not remove them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.drivers import web_driver
from textual.message import Message

if sys.platform == "win32":
    from textual.drivers import win32 as terminal_driver
else:
    from textual.drivers import linux_driver as terminal_driver

_ESCAPE = re.compile(r"\x1b(\[[\d;:]*m)?")  # alone, or with a color


class PasteParser(XTermParser):
    """Textual's parser without escape sequences in pasted text."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._is_pasting = False
        self._before = ""  # the last characters before a paste: they may begin its first marker
        self._held = ""  # the last characters of a paste so far: they may begin its last marker

    def feed(self, data: str) -> Iterable[Message]:
        """Parse input; no input is the end of it, or of the time for the rest of an escape sequence."""
        cleaned = self._cleaned(data)
        return super().feed(cleaned) if cleaned or not data else ()

    def _cleaned(self, data: str) -> str:
        cleaned = ""
        while data:
            if self._is_pasting:
                text, end, data = (self._held + data).partition(BRACKETED_PASTE_END)
                self._held = "" if end else _beginning_of(BRACKETED_PASTE_END, text)
                cleaned += _ESCAPE.sub("", text.removesuffix(self._held)) + end
                self._is_pasting = not end
            else:
                seen = self._before + data
                until = seen.find(BRACKETED_PASTE_START) + len(BRACKETED_PASTE_START)
                self._is_pasting = until >= len(BRACKETED_PASTE_START)
                until = until - len(self._before) if self._is_pasting else len(data)
                cleaned, data = cleaned + data[:until], data[until:]
                self._before = "" if self._is_pasting else _beginning_of(BRACKETED_PASTE_START, seen)
        return cleaned


def _beginning_of(marker: str, text: str) -> str:
    """Return the longest end of a text that is the beginning of a marker."""
    return next(marker[:size] for size in range(len(marker) - 1, -1, -1) if text.endswith(marker[:size]))


def add_paste_parser() -> None:
    """Let the drivers for terminals and browser pages parse their input with `PasteParser`."""
    for driver in (terminal_driver, web_driver):
        driver.XTermParser = PasteParser  # type: ignore[attr-defined]
