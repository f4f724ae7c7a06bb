"""Table of checkpoints: column titles and selectable rows of text."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from gpt_tui.shared.rows import TONE_STYLES
from gpt_tui.tabs.checkpoints.presenter import Table, TableRow


class Rows(OptionList):
    """Option list without its select action: Enter belongs to the tab, and a click only moves the cursor."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable select."""
        return action != "select"


class CheckpointList(Vertical):
    """Titles and rows; the cursor stays on its row when rows are added or removed.

    Posts `Rows.OptionHighlighted` when the cursor moves.
    """

    _keys: tuple[str, ...] = ()
    _rows: tuple[TableRow, ...] = ()
    _marked: int | None = None

    def compose(self) -> ComposeResult:
        """Lay out titles and rows."""
        yield Static("", id="checkpoint-titles", markup=False)
        yield Rows(id="checkpoint-rows", compact=True, markup=False)

    @property
    def rows(self) -> Rows:
        """The widget that has the cursor."""
        return self.query_one(Rows)

    @property
    def room(self) -> int:
        """Cells for a row: the width without margins and scroll bar."""
        return self.size.width - 3

    @property
    def key(self) -> str:
        """The key of the row under the cursor, "" if there is none."""
        index = self.rows.highlighted
        return self._keys[index] if index is not None and index < len(self._keys) else ""

    def show(self, table: Table, keys: Sequence[str]) -> None:
        """Show a table; `keys` identify its rows."""
        self.query_one("#checkpoint-titles", Static).update(Content(table.titles), layout=False)
        before, self._rows = self._rows, table.rows
        if tuple(keys) == self._keys:
            for index, (row, old) in enumerate(zip(table.rows, before, strict=True)):
                if row != old:
                    self._draw(index)
        else:
            self._rebuild(tuple(keys))

    def mark(self) -> None:
        """Draw the row under the cursor in the cursor's colors, and the one before in its own."""
        marked, self._marked = self._marked, self.rows.highlighted
        for index in {marked, self._marked} - {None}:
            if index is not None and index < len(self._rows):
                self._draw(index)

    def _rebuild(self, keys: tuple[str, ...]) -> None:
        key, index, scroll_y = self.key, self.rows.highlighted, self.rows.scroll_y
        self._keys = keys
        self.rows.set_options([Option(row.text + row.status) for row in self._rows])
        self.rows.scroll_to(y=scroll_y, animate=False)
        if keys:
            self.rows.highlighted = keys.index(key) if key in keys else min(index or 0, len(keys) - 1)
        self._marked = self.rows.highlighted
        for row in range(len(keys)):
            self._draw(row)

    def _draw(self, index: int) -> None:
        row = self._rows[index]
        tone = "" if index == self.rows.highlighted else TONE_STYLES[row.tone]
        self.rows.replace_option_prompt_at_index(index, Content.assemble(row.text, (row.status, tone)))
