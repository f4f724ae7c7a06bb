"""The log of a run: what happened, and when."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.widgets import RichLog

from gpt_tui.session.run_state import MAX_LOG_LINES, LogLine, RunState
from gpt_tui.shared.formatting import clock
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.titled import Titled
from gpt_tui.shared.wrapping import wrapped

LEAST_WIDTH = 20


class LogPanel(Titled, RichLog):
    """Shows a history's log lines; new ones are added at the end. Their text is never markup."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--plain", "log--good", "log--bad", "log--dim"}

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False, highlight=False, max_lines=4 * MAX_LOG_LINES, min_width=LEAST_WIDTH)
        self._shown = 0
        self._history: RunState | None = None
        self._wrapped_at = 0

    def on_mount(self) -> None:
        """Another theme means other colours."""
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self._rewrite())

    def show(self, history: RunState) -> None:
        """Adds the lines that are new; a history of another run replaces all."""
        if self._history and history.started is not self._history.started:
            self.clear()
            self._shown = 0
        self._history = history
        if not self._wrapped_at:
            return  # hidden since the beginning: the first resize writes it all
        new = min(history.logged - self._shown, len(history.log))
        for line in history.log[len(history.log) - new :]:
            self.write(self._text(line), width=self._wrapped_at)
        self._shown = history.logged

    def on_resize(self, event: events.Resize) -> None:
        """Another width breaks the lines elsewhere. A pane that is hidden has none, and keeps to what it had."""
        width = self.scrollable_content_region.width
        if width > 0 and width != self._wrapped_at:
            self._wrapped_at = width
            self._rewrite()

    def _rewrite(self) -> None:
        self.clear()
        self._shown = 0
        if self._history:
            self.show(self._history)

    def _text(self, line: LogLine) -> Text:
        """The time, then the line, which goes on below itself where it is too long."""
        time = f"{clock(line.elapsed_s)}  "
        text = f"\n{' ' * len(time)}".join(wrapped(one_line(line.text), max(LEAST_WIDTH, self._wrapped_at) - len(time)))
        time_style = self.get_component_rich_style("log--dim")
        style = self.get_component_rich_style(f"log--{line.tone}")
        return Text.assemble((time, time_style), (text, style))
