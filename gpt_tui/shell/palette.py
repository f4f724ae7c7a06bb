"""Command palette: Textual's, opened without a second style update."""

from __future__ import annotations

from textual.command import CommandPalette


class Palette(CommandPalette):
    """Looks the same at every size, so it needs no breakpoints and their style update."""

    HORIZONTAL_BREAKPOINTS: list[tuple[int, str]] | None = []  # noqa: RUF012
    VERTICAL_BREAKPOINTS: list[tuple[int, str]] | None = []  # noqa: RUF012
