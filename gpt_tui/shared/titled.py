"""Border titles with a space on each side, with or without corners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

if TYPE_CHECKING:
    from textual.widget import Widget as Framed
else:
    Framed = object  # a widget inherits styles and focus from its first widget base, which should be its own


class Titled(Framed):
    """Mixin that pads the border title where the border has no corners. List it before the widget base.

    Textual leaves a space between a corner and the title, but none where there is no corner, as in a low terminal.
    """

    _title: Content | None = None

    @property
    def _border_title(self) -> Content | None:
        """Title as Textual draws it. Read with each frame, so that a change of styles takes effect."""
        if self._title is None or not self._title.cell_length:
            return self._title
        left, right = (side[0] in ("", "none") for side in (self.styles.border_left, self.styles.border_right))
        title = self._title.truncate(max(1, self.outer_size.width - 4), ellipsis=True)
        return title.pad(int(left), int(right))

    @_border_title.setter
    def _border_title(self, title: Content | None) -> None:
        self._title = title
