"""Log panel: the events of a run, with their times."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.widgets import RichLog

from gpt_tui.session.run_events import MAX_LOG_LINES
from gpt_tui.session.run_state import LogLine, RunState
from gpt_tui.shared.formatting import clock
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.titled import Titled
from gpt_tui.shared.wrapping import wrapped

MIN_WIDTH = 20


class LogPanel(Titled, RichLog):
    """Shows the log lines of a run. New lines are appended; text is never markup."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--plain", "log--good", "log--bad", "log--dim"}

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False, highlight=False, max_lines=4 * MAX_LOG_LINES, min_width=MIN_WIDTH)
        self._shown = 0
        self._state: RunState | None = None
        self._wrapped_at = 0

    def on_mount(self) -> None:
        """Rewrite the log when the theme changes, as its lines are styled when written."""
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self._rewrite())

    def show(self, state: RunState) -> None:
        """Append new lines, or replace all lines by those of another run."""
        if self._state and state.started is not self._state.started:
            self.clear()
            self._shown = 0
        self._state = state
        if not self._wrapped_at:
            return  # never shown so far; the first resize writes all lines
        new = min(state.logged - self._shown, len(state.log))
        for line in state.log[len(state.log) - new :]:
            self.write(self._text(line), width=self._wrapped_at)
        self._shown = state.logged

    def on_resize(self, event: events.Resize) -> None:
        """Wrap the lines at another width. A hidden panel has no width and keeps its lines."""
        width = self.scrollable_content_region.width
        if width > 0 and width != self._wrapped_at:
            self._wrapped_at = width
            self._rewrite()

    def _rewrite(self) -> None:
        self.clear()
        self._shown = 0
        if self._state:
            self.show(self._state)

    def _text(self, line: LogLine) -> Text:
        """Return a log line: time and text, wrapped with a hanging indent."""
        time = f"{clock(line.elapsed_s)}  "
        text = f"\n{' ' * len(time)}".join(wrapped(one_line(line.text), max(MIN_WIDTH, self._wrapped_at) - len(time)))
        time_style = self.get_component_rich_style("log--dim")
        style = self.get_component_rich_style(f"log--{line.tone}")
        return Text.assemble((time, time_style), (text, style))
