"""Samples panel: the samples of a run, oldest first."""

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
from gpt_tui.session.run_state import RunState, Sample
from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.keymap import KEYS, shown_key
from gpt_tui.shared.titled import Titled
from gpt_tui.shared.wrapping import wrapped

MIN_SPACED_ROWS = 24  # minimum height with an empty line between samples
EMPTY = (
    "No samples yet.\n\nBefore the first step and after each evaluation, the model continues a fixed prompt. "
    "(Settings: sample_prompt, sample_tokens.)"
)
MARKED = "marked"
NEWEST_KEY = next(key for key in KEYS if key.id == "samples.last")


class SamplesPanel(Titled, ScrollView, can_focus=True):
    """Shows the newest sample, unless the user scrolls or the cursor of the charts points to another one."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"samples--{name}" for name in (*get_args(Part), MARKED)}

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._state = RunState()
        self._timeline = Timeline()
        self._follows = True
        self._pointed: float | None = None  # step at the cursor of the charts
        self._marked: int | None = None  # index of its sample
        self._line_before_pointing = 0
        self._styles: dict[str, Style] | None = None

    # -- input

    def show(self, state: RunState) -> None:
        """Lay out the samples of a run if they have changed."""
        before, self._state = self._state, state
        if state.started is not before.started:
            self._follows, self._pointed, self._marked = True, None, None
        if state.samples is not before.samples or state.best != before.best:
            self._lay_out()

    def point_at(self, step: float | None) -> None:
        """Scroll to the newest sample at `step` and mark it; None scrolls back."""
        if self._pointed is None:
            self._line_before_pointing = round(self.scroll_y)
        self._pointed = step
        marked = self._sample_pointed_at()
        if marked == self._marked:
            return
        self._marked = marked
        if marked is not None:
            self._scroll_to_line(self._timeline.starts[marked])
        else:
            self._scroll_to_line(self._newest_line if self._follows else self._line_before_pointing)
        self.refresh()

    def _sample_pointed_at(self) -> int | None:
        """Return the index of the sample at the cursor, None if there is none or it is not laid out yet."""
        number = None if self._pointed is None else sample_at(self._state.samples, self._pointed)
        return number if number is not None and number < len(self._timeline.starts) else None

    def on_resize(self, event: events.Resize) -> None:
        """Wrap the lines at another width."""
        self._lay_out()

    def notify_style_update(self) -> None:
        """Redraw with the colors of another theme."""
        super().notify_style_update()
        self._styles = None

    @property
    def current(self) -> Sample | None:
        """The sample at the cursor of the charts; else the newest one, or the first visible one of those before."""
        samples = self._state.samples
        if not samples:
            return None
        if self._marked is not None:
            return samples[self._marked]
        if self._follows:  # the lines of a hidden panel may be those of another run
            return samples[-1]
        return samples[max(0, bisect_right(self._timeline.starts, round(self.scroll_y)) - 1)]

    # -- scrolling

    def go(self, samples: int) -> None:
        """Scroll by a number of samples; negative scrolls to earlier ones."""
        starts, top = self._timeline.starts, round(self.scroll_y)
        if starts:
            number = bisect_left(starts, top) + samples if samples < 0 else bisect_right(starts, top) - 1 + samples
            self._user_scrolls_to(starts[number] if 0 <= number < len(starts) else 0 if number < 0 else top)

    def go_page(self, pages: int) -> None:
        """Scroll by a number of pages."""
        self._user_scrolls_to(round(self.scroll_y) + pages * max(1, self.scrollable_content_region.height - 1))

    def go_to_end(self, *, first: bool) -> None:
        """Scroll to the first sample, or to the newest one and follow."""
        self._user_scrolls_to(0 if first else self._newest_line)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow the newest sample while it is visible; scrolling by the cursor of the charts does not count."""
        super().watch_scroll_y(old_value, new_value)
        if self._marked is None:
            self._update_follows()

    def _update_follows(self) -> None:
        self._follows = self.scroll_target_y >= self._newest_line
        key = shown_key(NEWEST_KEY, keymap_of(self.app))
        self.border_subtitle = "" if self._follows else f"{key} newest"

    @property
    def _newest_line(self) -> int:
        """First visible line when the newest sample is shown; its heading, if it is higher than the panel."""
        starts = self._timeline.starts
        return min(starts[-1], self.max_scroll_y) if starts else 0

    def _user_scrolls_to(self, line: int) -> None:
        self._pointed = self._marked = None
        self._scroll_to_line(line)
        self._update_follows()
        self.refresh()

    def _scroll_to_line(self, line: int) -> None:
        self.scroll_to(y=min(max(0, line), self.max_scroll_y), animate=False, immediate=True, force=True)

    # -- drawing

    def _lay_out(self) -> None:
        size = self.scrollable_content_region.size
        if size.width < 4:
            return
        top = bisect_right(self._timeline.starts, round(self.scroll_y)) - 1
        state, follows = self._state, self._follows
        spaced = self.size.height >= MIN_SPACED_ROWS
        fine_tunes = state.started is not None and bool(state.started.init_from)
        self._timeline = timeline(state.samples, state.best.step, size.width - 1, spaced=spaced, fine_tunes=fine_tunes)
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
        """Draw a line."""
        width = self.scrollable_content_region.width
        base = self.rich_style
        number = y + round(self.scroll_offset.y)
        if number < len(self._timeline.lines):
            line, marked = self._timeline.lines[number], self._is_marked(number)
        else:
            line, marked = self._empty_line(y, width), False
        styles = self._part_styles()
        segments = [Segment(text, base + (styles[MARKED] if marked else styles[part])) for part, text in line]
        return Strip(segments).adjust_cell_length(width, base + styles[MARKED] if marked else base)

    def _is_marked(self, number: int) -> bool:
        return self._marked is not None and self._timeline.starts[self._marked] == number

    def _empty_line(self, y: int, width: int) -> Line:
        if self._timeline.lines:
            return ()
        lines = wrapped(EMPTY, width)
        return (Span("head", lines[y]),) if y < len(lines) else ()

    def _part_styles(self) -> dict[str, Style]:
        if self._styles is None:
            names = (*get_args(Part), MARKED)
            self._styles = {name: self.get_component_rich_style(f"samples--{name}") for name in names}
        return self._styles
