"""The rows of the Checkpoints tab under their titles: what is shown comes in as text, which row is meant goes out."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from gpt_tui.run_view.status_panel import TONE_STYLES
from gpt_tui.tabs.checkpoints.table import Line, Table


class Rows(OptionList):
    """Enter is left to the pane around it, so that a click on a row moves the cursor there and does nothing else."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Everything but select."""
        return action != "select"


class CheckpointList(Vertical):
    """Keeps the cursor on its row when rows come and go. `Rows.OptionHighlighted` goes out when it moves."""

    _keys: tuple[str, ...] = ()
    _lines: tuple[Line, ...] = ()
    _marked: int | None = None

    def compose(self) -> ComposeResult:
        """Titles, rows."""
        yield Static("", id="checkpoint-titles", markup=False)
        yield Rows(id="checkpoint-rows", compact=True, markup=False)

    @property
    def rows(self) -> Rows:
        """What has the cursor."""
        return self.query_one(Rows)

    @property
    def room(self) -> int:
        """Cells for a row: the width without margins and scroll bar."""
        return self.size.width - 3

    @property
    def key(self) -> str:
        """The key of the row that the cursor is on, "" without one."""
        at = self.rows.highlighted
        return self._keys[at] if at is not None and at < len(self._keys) else ""

    def show(self, table: Table, keys: Sequence[str]) -> None:
        """Shows the table; `keys` name its rows, one each."""
        self.query_one("#checkpoint-titles", Static).update(Content(table.titles), layout=False)
        before, self._lines = self._lines, table.lines
        if tuple(keys) == self._keys:
            for at, (line, old) in enumerate(zip(table.lines, before, strict=True)):
                if line != old:
                    self._draw(at)
        else:
            self._rebuild(tuple(keys))

    def mark(self) -> None:
        """The cursor has moved: its row is in the cursor's colours alone, all others in their own."""
        marked, self._marked = self._marked, self.rows.highlighted
        for at in {marked, self._marked} - {None}:
            if at is not None and at < len(self._lines):
                self._draw(at)

    def _rebuild(self, keys: tuple[str, ...]) -> None:
        on, at, scrolled = self.key, self.rows.highlighted, self.rows.scroll_y
        self._keys = keys
        self.rows.set_options([Option(line.text + line.check) for line in self._lines])
        self.rows.scroll_to(y=scrolled, animate=False)
        if keys:
            self.rows.highlighted = keys.index(on) if on in keys else min(at or 0, len(keys) - 1)
        self._marked = self.rows.highlighted
        for row in range(len(keys)):
            self._draw(row)

    def _draw(self, at: int) -> None:
        line = self._lines[at]
        tone = "" if at == self.rows.highlighted else TONE_STYLES[line.tone]
        self.rows.replace_option_prompt_at_index(at, Content.assemble(line.text, (line.check, tone)))
