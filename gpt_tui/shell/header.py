"""Header: program, tabs, model, step and phase."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static, Tab, Tabs

from gpt_tui.run_view.status import PHASE_TONES, SYMBOLS
from gpt_tui.session.phase import Phase
from gpt_tui.shared.keymap import TABS
from gpt_tui.shared.rows import TONE_STYLES
from gpt_tui.shell.header_text import fitted_model, tab_labels, tabs_width

PROGRAM = " gpt-tui "
MARGINS = 3  # around the tabs, and before the state


class HeaderBar(Horizontal):
    """First line of the screen. Posts `Tabs.TabActivated` when a tab is clicked.

    Model and state are one widget: with two, each change of a width would lay out the screen again.
    """

    _state = Content("")
    _model = ""

    def compose(self) -> ComposeResult:
        """Compose the name, the tabs, and one line for model and state."""
        yield Static(PROGRAM, id="program", markup=False)
        tabs = Tabs(*(Tab(info.title, id=f"tab-{name}") for name, info in TABS.items()), id="tabs")
        tabs.can_focus = False  # the focus stays in the visible tab, whose keys need it
        yield tabs
        yield Static("", id="run-line", markup=False)

    def on_resize(self) -> None:
        """Show the keys of the tabs where there is room."""
        labels = tab_labels(self.size.width, dict(self.app._keymap))
        for name, (key, title) in labels.items():
            self.query_one(f"#tab-{name}", Tab).label = Content.assemble((key, "$key"), " " * bool(key), title)
        self.query_one(Tabs).styles.width = tabs_width(labels)
        self._write()

    def show_model(self, text: str) -> None:
        """Show the name of the model."""
        if text != self._model:
            self._model = text
            self._write()

    def show_state(self, phase: Phase, step: str) -> None:
        """Show the phase with its symbol, and the step."""
        words = Content.styled(f"{SYMBOLS[phase]} {phase.value} ", TONE_STYLES[PHASE_TONES.get(phase, "plain")])
        state = Content.assemble((f"{step}  " if step else "", "$foreground 60%"), words)
        if state != self._state:
            self._state = state
            self._write()

    def _write(self) -> None:
        """Fit the model into the room beside tabs and state."""
        tabs = tabs_width(tab_labels(self.size.width, dict(self.app._keymap)))
        room = self.size.width - len(PROGRAM) - tabs - MARGINS - self._state.cell_length
        model = fitted_model(self._model, room)
        line = Content.assemble(
            (model, "$foreground 60%"), " " * (room - cell_len(model) + 1), self._state.stylize("bold")
        )
        self.query_one("#run-line", Static).update(line, layout=False)
