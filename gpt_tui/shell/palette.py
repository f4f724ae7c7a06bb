"""The command palette: Textual's, on the screen at once."""

from __future__ import annotations

from textual.command import CommandPalette


class Palette(CommandPalette):
    """Has one look at every size: without the classes for sizes, its styles are not looked up once more."""

    HORIZONTAL_BREAKPOINTS: list[tuple[int, str]] | None = []  # noqa: RUF012
    VERTICAL_BREAKPOINTS: list[tuple[int, str]] | None = []  # noqa: RUF012
