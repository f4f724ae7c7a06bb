"""Strip below the charts with a note of the guide."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.keymap import shown_keys
from gpt_tui.shared.titled import Titled
from gpt_tui.tabs.train.guide import Note
from gpt_tui.tabs.train.guide_texts import OFF_KEY_TEXT

ABOVE, BELOW, BESIDE = "▲", "▼", "▶"  # where the panel is that a note explains


class GuideStrip(Titled, Static):
    """A note, and the keys that close it; hidden without a note. It takes its rows from the charts, and no focus."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self._shown: tuple[Note, str] | None = None

    def show(self, note: Note | None) -> None:
        """Show a note, or nothing."""
        place = ABOVE
        if note is not None and note.subject == "samples":
            place = BESIDE if self.screen.has_class("-very-wide") else BELOW
        shown = None if note is None else (note, place)
        if shown == self._shown:
            return
        self._shown, self.display = shown, note is not None
        if note is not None:
            keys = shown_keys(keymap_of(self.app))
            hint = OFF_KEY_TEXT.format(close=keys["close_note"], off=keys["switch_guide"])
            self.border_title = f"[b]{place} {note.title}[/b]"
            self.update(Content.assemble(note.text, "  ", (hint, "$muted")))


class GuidedCharts(RunCharts):
    """The charts of a run with the notes of the guide below them."""

    def compose(self) -> ComposeResult:
        """Lay out the charts above the strip."""
        yield from super().compose()
        yield GuideStrip(id="guide")
