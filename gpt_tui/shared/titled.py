"""Border titles and subtitles with a space on each side, with or without corners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

if TYPE_CHECKING:
    from textual.widget import Widget as Framed
else:
    Framed = object  # a widget inherits styles and focus from its first widget base, which should be its own


class Titled(Framed):
    """Mixin that pads the texts on the border where it has no corners. List it before the widget base.

    Textual leaves a space between a corner and the text, but none where there is no corner, as in a low terminal.
    """

    _title: Content | None = None
    _subtitle: Content | None = None

    @property
    def _border_title(self) -> Content | None:
        """Title as Textual draws it. Read with each frame, so that a change of styles takes effect."""
        return self._padded(self._title)

    @_border_title.setter
    def _border_title(self, title: Content | None) -> None:
        self._title = title

    @property
    def _border_subtitle(self) -> Content | None:
        """Subtitle as Textual draws it."""
        return self._padded(self._subtitle)

    @_border_subtitle.setter
    def _border_subtitle(self, subtitle: Content | None) -> None:
        self._subtitle = subtitle

    def _padded(self, text: Content | None) -> Content | None:
        if text is None or not text.cell_length:
            return text
        left, right = (side[0] in ("", "none") for side in (self.styles.border_left, self.styles.border_right))
        shown = text.truncate(max(1, self.outer_size.width - 4), ellipsis=True)
        return shown.pad(int(left), int(right))
