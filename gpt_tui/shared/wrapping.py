"""Where text is broken into lines, by the cells its characters take."""

from __future__ import annotations

from rich.cells import cell_len


def line_spans(text: str, width: int) -> list[tuple[int, int]]:
    """The (start, stop) of each line of `text` that is at most `width` cells wide: broken at line feeds and at spaces.

    A word that is wider than a line is broken inside. The space at a break belongs to no line.
    """
    width = max(2, width)  # a character takes two cells at most
    spans = []
    start = 0
    for paragraph in text.split("\n"):
        end = start + len(paragraph)
        while (fitting := fitting_stop(text, start, end, width)) < end:
            space = text.rfind(" ", start, fitting + 1)
            stop = space if space > start else fitting
            spans.append((start, stop))
            start = stop + (text[stop] == " ")
        spans.append((start, end))
        start = end + 1
    return spans


def fitting_stop(text: str, start: int, stop: int, width: int) -> int:
    """How far `text[start:stop]` reaches in `width` cells, one character at least."""
    while stop > start + 1 and (cells := cell_len(text[start:stop])) > width:
        stop = max(start + 1, stop - max(1, (cells - width) // 2))
    return stop


def wrapped(text: str, width: int) -> list[str]:
    """The lines of `text`, each at most `width` cells wide."""
    return [text[start:stop] for start, stop in line_spans(text, width)]
