"""List of runs: a row per run, with the columns that fit and the numbers of marked runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable

from gpt_tui.charts.overlay import MAX_RUNS
from gpt_tui.session.run_finder import RunInfo
from gpt_tui.shared.spans import shortened, shortened_names
from gpt_tui.shared.titled import Titled
from gpt_tui.tabs.runs.presenter import COLUMNS, MARK, NAME, STATUS, STATUS_TONES, cells, columns_at

SCROLLBAR = 1


class RunsTable(Titled, DataTable[Text], inherit_bindings=False):
    """Table of runs. Posts `Selected` when another run is under the cursor.

    Only the vertical keys of a table are bound: the horizontal ones belong to the charts.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "runs--good", "runs--bad", *(f"runs--run-{number}" for number in range(1, MAX_RUNS + 1)),
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "cursor_up", "Up", show=False),
        Binding("down", "cursor_down", "Down", show=False),
        Binding("pageup", "page_up", "Page up", show=False),
        Binding("pagedown", "page_down", "Page down", show=False),
        Binding("home", "scroll_top", "First", show=False),
        Binding("end", "scroll_bottom", "Last", show=False),
    ]

    class Selected(Message):
        """Another run, of this folder, is under the cursor."""

        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder = folder

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, header_height=1)
        self._runs: list[RunInfo] = []
        self._marks: Mapping[Path, int] = {}
        self._now_s = 0.0
        self._columns_shown: list[tuple[int, int]] = []
        self._rows_shown: list[Path] = []  # folders of the rows; of other runs than `_runs` before the layout

    def on_mount(self) -> None:
        """Redraw when the theme changes."""
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self.call_after_refresh(self._repaint))

    def _repaint(self) -> None:
        if selected := self.selected:
            self._rebuild(self._columns_shown, selected.folder)

    @property
    def selected(self) -> RunInfo | None:
        """The run under the cursor."""
        return self._runs[self.cursor_row] if 0 <= self.cursor_row < len(self._runs) else None

    def show(self, runs: Sequence[RunInfo], marks: Mapping[Path, int], now_s: float) -> None:
        """Update the runs; the cursor stays on its run."""
        selected = self.selected
        self._runs, self._marks, self._now_s = list(runs), marks, now_s
        if not self.size.width:  # not laid out yet: `on_resize` follows
            return
        layout = columns_at(self.size.width - SCROLLBAR)
        if self._rows_shown != [run.folder for run in runs] or layout != self._columns_shown:
            self._rebuild(layout, selected.folder if selected else None)
            return
        for row, texts in enumerate(self._rows_of_texts()):
            for place, text in enumerate(texts):
                if self.get_cell_at((row, place)) != text:  # type: ignore[arg-type]
                    self.update_cell_at((row, place), text)  # type: ignore[arg-type]

    def _rebuild(self, layout: list[tuple[int, int]], selected: Path | None) -> None:
        self._columns_shown, self._rows_shown = layout, [run.folder for run in self._runs]
        self.styles.height = len(self._runs) + self.header_height + self.gutter.height
        with self.prevent(DataTable.RowHighlighted):
            self.clear(columns=True)
            for index, width in layout:
                column = COLUMNS[index]
                self.add_column(Text(column.title.rjust(width) if column.align_right else column.title), width=width)
            for texts in self._rows_of_texts():
                self.add_row(*texts)
            row = next((row for row, run in enumerate(self._runs) if run.folder == selected), 0)
            self.move_cursor(row=row, animate=False)
        self._post_selected()

    def _rows_of_texts(self) -> list[list[Text]]:
        """Return the cells of each run, in the columns that are shown."""
        rows = [cells(run, self._marks.get(run.folder, 0), self._now_s) for run in self._runs]
        names = shortened_names([row[NAME] for row in rows], dict(self._columns_shown)[NAME])
        return [self._texts(*parts) for parts in zip(self._runs, rows, names, strict=True)]

    def _texts(self, run: RunInfo, row: Sequence[str], name: str) -> list[Text]:
        mark = self._marks.get(run.folder, 0)
        texts = []
        for index, width in self._columns_shown:
            cell = name if index == NAME else shortened(row[index], width)
            text = Text(cell.rjust(width) if COLUMNS[index].align_right else cell, no_wrap=True)
            if index == MARK and mark:
                text.stylize(self.get_component_rich_style(f"runs--run-{mark}", partial=True))
            elif index == STATUS and (tone := STATUS_TONES.get(run.status)):
                text.stylize(self.get_component_rich_style(f"runs--{tone}", partial=True))
            texts.append(text)
        return texts

    def on_resize(self) -> None:
        """Update the columns to the new width."""
        if self._runs:
            self.show(self._runs, self._marks, self._now_s)

    def on_data_table_row_highlighted(self, message: DataTable.RowHighlighted) -> None:
        """Post `Selected`."""
        message.stop()
        self._post_selected()

    def _post_selected(self) -> None:
        if selected := self.selected:
            self.post_message(self.Selected(selected.folder))
