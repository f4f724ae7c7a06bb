"""Sanitizing of untrusted text (corpus, model, paths, errors): no control character reaches the terminal."""

from __future__ import annotations

import re

# Control characters become their Unicode pictures (ESC is shown as ␛), which take one cell and have no effect.
_PICTURES: dict[int, str | None] = {code: chr(0x2400 + code) for code in range(0x20)}
_PICTURES |= {0x0A: "\n", 0x09: "    ", 0x7F: "␡"}
# C1 controls (0x9B alone starts an escape sequence in some terminals), lone surrogates and non-characters.
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\N{REPLACEMENT CHARACTER}")
# Line separators, at which some terminals break a line, and marks that reorder or hide the text around them.
_PICTURES |= dict.fromkeys([0x2028, 0x2029], "\n")
_PICTURES |= dict.fromkeys([0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x206A)], "·")

_LINE_END_RETURNS = re.compile(r"\r+(?=\n|\Z)")


def printable(text: str) -> str:
    """Return `text` with control characters and direction marks replaced by visible characters; keep line feeds.

    Carriage returns at the end of a line or of the text are dropped, so that CRLF may be split over two pieces.
    """
    return _LINE_END_RETURNS.sub("", text).translate(_PICTURES)


def valid_utf8(text: str) -> str:
    """Return `text` with lone surrogates escaped: bytes of file names that are not UTF-8, which JSON cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str, max_length: int = 400) -> str:
    """Return `printable` text on one line of at most `max_length` characters, truncated with an ellipsis."""
    line = " ".join(printable(text).split())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def title_markup(text: str) -> str:
    """Return text of one line as the markup of a border title, which shows brackets as they are."""
    return one_line(text).replace("[", r"\[")
