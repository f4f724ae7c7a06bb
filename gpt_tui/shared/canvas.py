"""Widget that draws lines of spans, and reports clicks on them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from gpt_tui.shared.ramp import MIN_LEVEL, STEPS, shade
from gpt_tui.shared.spans import Line, Span, SpanStyle
from gpt_tui.shared.titled import Titled

UPPER_HALF = "▀"
STYLES: tuple[SpanStyle, ...] = ("bold", "muted", "title", "good", "bad", "mark", "cursor")


class Canvas(Titled, Widget, can_focus=True):
    """Area of lines. Posts `Chosen` for a click on a span with a value, `Scrolled` for the mouse wheel."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"canvas--{name}" for name in STYLES}

    class Chosen(Message):
        """A span was clicked: its value."""

        def __init__(self, canvas: Canvas, value: Hashable) -> None:
            super().__init__()
            self.canvas = canvas
            self.value = value

        @property
        def control(self) -> Canvas:
            """The canvas."""
            return self.canvas

    class Scrolled(Message):
        """The wheel was turned: 1 for down, -1 for up."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    class Resized(Message):
        """The area has another size."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._lines: Sequence[Line] = ()
        self._styles: dict[tuple[object, ...], Style] = {}

    def show(self, lines: Sequence[Line]) -> None:
        """Replace the lines."""
        self._lines = lines
        self.refresh()

    def on_resize(self) -> None:
        """Report the new size."""
        self.post_message(self.Resized())

    def notify_style_update(self) -> None:
        """Draw with the colors of another theme."""
        super().notify_style_update()
        self._styles.clear()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        width, base = self.size.width, self.rich_style
        line = self._lines[y] if y < len(self._lines) else ()
        looks = [self._style(span, base) for span in line]
        segments = []
        for _, alike in groupby(zip(line, looks, strict=True), key=lambda pair: id(pair[1])):  # few long segments
            spans, styles = zip(*alike, strict=True)
            segments.append(Segment("".join(map(shown_text, spans)), styles[0]))
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, span: Span, base: Style) -> Style:
        """Return the look of a span. Levels of one color share a style."""
        key = (_step(span.level), None if span.lower is None else _step(span.lower), span.lower is None, span.style)
        if key not in self._styles:
            self._styles[key] = self._new_style(span, base)
        return self._styles[key]

    def _new_style(self, span: Span, base: Style) -> Style:
        dark = self.app.current_theme.dark
        style = base
        upper = None if span.level is None else shade(span.level, dark=dark)
        if span.lower is not None:
            lower = shade(span.lower, dark=dark)
            ground = base.bgcolor.name if base.bgcolor else None
            # as the color of text, "default" is not the background
            if upper is None and lower is not None and ground == "default":
                return Style(color=lower.background, bgcolor=ground, reverse=True)
            return Style(color=upper.background if upper else ground, bgcolor=lower.background if lower else ground)
        if span.style and span.style != "cursor":
            style += self.get_component_rich_style(f"canvas--{span.style}")
        if upper is not None:
            style += Style(color=upper.text, bgcolor=upper.background)
        if span.style == "cursor":
            style += Style(reverse=True, bold=True)
        return style

    # -- mouse

    def on_click(self, event: events.Click) -> None:
        """Report the value of the clicked span."""
        place = event.get_content_offset(self)
        if place is None:
            return
        line = self._lines[place.y] if place.y < len(self._lines) else ()
        column = 0
        for span in line:
            column += cell_len(span.text)
            if place.x < column:
                if span.at is not None:
                    event.stop()
                    self.post_message(self.Chosen(self, span.at))
                return

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Report the wheel."""
        event.stop()
        self.post_message(self.Scrolled(1))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Report the wheel."""
        event.stop()
        self.post_message(self.Scrolled(-1))


def shown_text(span: Span) -> str:
    """Return the characters of a span: half blocks where its cells have two colors."""
    return UPPER_HALF * cell_len(span.text) if span.lower is not None else span.text


def _step(level: float | None) -> int | None:
    """Return the number of a level's color; NaN and None have none."""
    return round(min(level, 1.0) * STEPS) if level is not None and level >= MIN_LEVEL else None
