"""Line breaking by the width of characters in terminal cells."""

from __future__ import annotations

from rich.cells import cell_len


def line_spans(text: str, width: int) -> list[tuple[int, int]]:
    """Return (start, stop) of each line of `text`, at most `width` cells wide, broken at line feeds and spaces.

    A word wider than a line is split. The space at a break belongs to no line.
    """
    width = max(2, width)  # a character takes up to two cells
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
    """Return the end of the part of `text[start:stop]` that fits into `width` cells: at least one character."""
    while stop > start + 1 and (cells := cell_len(text[start:stop])) > width:
        stop = max(start + 1, stop - max(1, (cells - width) // 2))
    return stop


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of `text`, each at most `width` cells wide."""
    return [text[start:stop] for start, stop in line_spans(text, width)]
