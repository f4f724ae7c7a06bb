"""Text from a corpus, a model, a path or an error, made harmless to show: nothing in it can steer the terminal."""

from __future__ import annotations

# Control characters become their pictures (ESC is shown as ␛), which take one cell and mean nothing to a terminal.
_PICTURES: dict[int, str | None] = {code: chr(0x2400 + code) for code in range(0x20)}
_PICTURES |= {0x0A: "\n", 0x09: "    ", 0x7F: "␡"}
# C1 controls (0x9B alone starts an escape sequence in some terminals), lone surrogates and non-characters.
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\N{REPLACEMENT CHARACTER}")
# Line separators that a terminal may or may not break at, and marks that reorder or hide what stands around them.
_PICTURES |= dict.fromkeys([0x2028, 0x2029], "\n")
_PICTURES |= dict.fromkeys([0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x206A)], "·")


def printable(text: str) -> str:
    """`text` with every control character and direction mark made visible and inert; line feeds stay."""
    return text.replace("\r\n", "\n").translate(_PICTURES)


def one_line(text: str, most: int = 400) -> str:
    """`printable` text on one line of at most `most` characters, cut with an ellipsis."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
