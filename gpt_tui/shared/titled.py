"""A frame's title with a space on each side, whatever the frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

if TYPE_CHECKING:
    from textual.widget import Widget as Framed
else:
    Framed = object  # a widget takes styles and focus from its first base that is a widget, which should be its own


class Titled(Framed):
    """For a widget whose title keeps its distance where its border is a rule without corners, too.

    To be named before the widget's own base. Textual leaves a space between a corner and the title, and none where
    there is no corner, as in a low terminal.
    """

    _title: Content | None = None

    @property
    def _border_title(self) -> Content | None:
        """What Textual draws into the upper border; asked for with each frame, so that a change of styles is seen."""
        if self._title is None or not self._title.cell_length:
            return self._title
        left, right = (side[0] in ("", "none") for side in (self.styles.border_left, self.styles.border_right))
        title = self._title.truncate(max(1, self.outer_size.width - 4), ellipsis=True)
        return title.pad(int(left), int(right))

    @_border_title.setter
    def _border_title(self, title: Content | None) -> None:
        self._title = title
