"""The samples of a run, one under the other: from gibberish to English, newest in view."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import ClassVar, get_args

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from gpt_tui.run_view.samples_layout import Line, Part, Span, Timeline, sample_at, timeline
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.keymap import KEYS, shown_key
from gpt_tui.shared.titled import Titled
from gpt_tui.shared.wrapping import wrapped

AIRY_ROWS = 24  # a pane of so many rows has a gap between two samples
EMPTY = (
    "No sample yet.\n\nBefore the first step and at each evaluation the model goes on from one fixed prompt. Here one "
    "watches the text turn into English. (sample_prompt and sample_tokens are settings.)"
)
MARKED = "marked"
NEWEST_KEY = next(key for key in KEYS if key.id == "samples.last")


class SamplesPanel(Titled, ScrollView, can_focus=True):
    """Follows the newest sample unless the user has scrolled away, or the charts' cursor asks for another one."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"samples--{name}" for name in (*get_args(Part), MARKED)}

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._history = RunState()
        self._timeline = Timeline()
        self._follows = True
        self._pointed: float | None = None  # the step that the charts' cursor is at
        self._marked: int | None = None  # the number of its sample
        self._left_at = 0
        self._styles: dict[str, Style] | None = None

    # -- what comes in

    def show(self, history: RunState) -> None:
        """Lays out the samples, if there are others than before."""
        before, self._history = self._history, history
        if history.started is not before.started:
            self._follows, self._pointed, self._marked = True, None, None
        if history.samples is not before.samples or history.best != before.best:
            self._lay_out()

    def point_at(self, step: float | None) -> None:
        """Brings the sample that was the newest at `step` into view and marks it; None goes back to where one was."""
        if self._pointed is None:
            self._left_at = round(self.scroll_y)
        self._pointed = step
        marked = self._sample_pointed_at()
        if marked == self._marked:
            return
        self._marked = marked
        if marked is not None:
            self._scroll_to_line(self._timeline.starts[marked])
        else:
            self._scroll_to_line(self._newest_line if self._follows else self._left_at)
        self.refresh()

    def _sample_pointed_at(self) -> int | None:
        """Its number, if there is one and it is laid out already."""
        number = None if self._pointed is None else sample_at(self._history.samples, self._pointed)
        return number if number is not None and number < len(self._timeline.starts) else None

    def on_resize(self, event: events.Resize) -> None:
        """Another width breaks the lines elsewhere."""
        self._lay_out()

    def notify_style_update(self) -> None:
        """Another theme."""
        super().notify_style_update()
        self._styles = None

    # -- moving about

    def go(self, samples: int) -> None:
        """Scrolls by so many samples: earlier ones if it is negative."""
        starts, top = self._timeline.starts, round(self.scroll_y)
        if starts:
            number = bisect_left(starts, top) + samples if samples < 0 else bisect_right(starts, top) - 1 + samples
            self._user_scrolls_to(starts[number] if 0 <= number < len(starts) else 0 if number < 0 else top)

    def go_page(self, pages: int) -> None:
        """Scrolls by so many heights of the pane."""
        self._user_scrolls_to(round(self.scroll_y) + pages * max(1, self.scrollable_content_region.height - 1))

    def go_to_end(self, *, first: bool) -> None:
        """The first sample, or the newest one, which is followed from then on."""
        self._user_scrolls_to(0 if first else self._newest_line)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Whether the newest is in view, and so is followed; a chart's cursor changes nothing in that."""
        super().watch_scroll_y(old_value, new_value)
        if self._marked is None:
            self._note_place()

    def _note_place(self) -> None:
        self._follows = self.scroll_target_y >= self._newest_line
        key = shown_key(NEWEST_KEY, dict(self.app._keymap))
        self.border_subtitle = "" if self._follows else f"{key} newest"

    @property
    def _newest_line(self) -> int:
        """The line at the top when the newest sample is in view: its head, if the pane is too low for all of it."""
        starts = self._timeline.starts
        return min(starts[-1], self.max_scroll_y) if starts else 0

    def _user_scrolls_to(self, line: int) -> None:
        self._pointed = self._marked = None
        self._scroll_to_line(line)
        self._note_place()
        self.refresh()

    def _scroll_to_line(self, line: int) -> None:
        self.scroll_to(y=min(max(0, line), self.max_scroll_y), animate=False, immediate=True, force=True)

    # -- drawing

    def _lay_out(self) -> None:
        size = self.scrollable_content_region.size
        if size.width < 4:
            return
        top = bisect_right(self._timeline.starts, round(self.scroll_y)) - 1
        history, follows = self._history, self._follows
        airy = self.size.height >= AIRY_ROWS
        self._timeline = timeline(history.samples, history.best.step, size.width - 1, airy=airy)
        self.virtual_size = Size(size.width, len(self._timeline.lines))
        self._marked = self._sample_pointed_at()
        if self._marked is not None:
            self._scroll_to_line(self._timeline.starts[self._marked])
        elif follows:
            self._scroll_to_line(self._newest_line)
        elif 0 <= top < len(self._timeline.starts):
            self._scroll_to_line(self._timeline.starts[top])
        self._follows = follows
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the timeline."""
        width = self.scrollable_content_region.width
        base = self.rich_style
        number = y + round(self.scroll_offset.y)
        if number < len(self._timeline.lines):
            line, marked = self._timeline.lines[number], self._is_marked(number)
        else:
            line, marked = self._empty_line(y, width), False
        looks = self._looks()
        segments = [Segment(text, base + (looks[MARKED] if marked else looks[part])) for part, text in line]
        return Strip(segments).adjust_cell_length(width, base + looks[MARKED] if marked else base)

    def _is_marked(self, number: int) -> bool:
        return self._marked is not None and self._timeline.starts[self._marked] == number

    def _empty_line(self, y: int, width: int) -> Line:
        if self._timeline.lines:
            return ()
        lines = wrapped(EMPTY, width)
        return (Span("head", lines[y]),) if y < len(lines) else ()

    def _looks(self) -> dict[str, Style]:
        if self._styles is None:
            names = (*get_args(Part), MARKED)
            self._styles = {name: self.get_component_rich_style(f"samples--{name}") for name in names}
        return self._styles
