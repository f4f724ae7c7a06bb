"""Header: program, tabs, model, step and phase."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static, Tab, Tabs

from gpt_tui.run_view.status import PHASE_TONES, SYMBOLS
from gpt_tui.session.phase import Phase
from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.keymap import TABS
from gpt_tui.shared.rows import TONE_STYLES
from gpt_tui.shell.header_text import (
    PROGRAM,
    fitted_model,
    fitted_step,
    program_name,
    room_beside_tabs,
    tab_labels,
    tabs_width,
)

STEP_GAP = "  "  # between step and phase


class HeaderBar(Horizontal):
    """First line of the screen. Posts `Tabs.TabActivated` when a tab is clicked.

    Model and state are one widget: with two, each change of a width would lay out the screen again.
    """

    _model = ""
    _phase = Phase.IDLE
    _step: int | None = None

    def compose(self) -> ComposeResult:
        """Compose the name, the tabs, and one line for model and state."""
        yield Static(PROGRAM, id="program", markup=False)
        tabs = Tabs(*(Tab(info.title, id=f"tab-{name}") for name, info in TABS.items()), id="tabs")
        tabs.can_focus = False  # the focus stays in the visible tab, whose keys need it
        yield tabs
        yield Static("", id="run-line", markup=False)

    def on_resize(self) -> None:
        """Show the keys of the tabs, and the name of the program, where there is room."""
        labels = tab_labels(self.size.width, keymap_of(self.app))
        self.query_one("#program").display = bool(program_name(self.size.width, labels))
        for name, (key, title) in labels.items():
            self.query_one(f"#tab-{name}", Tab).label = Content.assemble((key, "$key"), " " * bool(key), title)
        self.query_one(Tabs).styles.width = tabs_width(labels)
        self._write()

    def show_model(self, text: str) -> None:
        """Show the name of the model."""
        if text != self._model:
            self._model = text
            self._write()

    def show_state(self, phase: Phase, step: int | None) -> None:
        """Show the phase with its symbol, and the step if there is one."""
        if (phase, step) != (self._phase, self._step):
            self._phase, self._step = phase, step
            self._write()

    def _write(self) -> None:
        """Fit model and step into the room beside the tabs and the phase."""
        room = room_beside_tabs(self.size.width, tab_labels(self.size.width, keymap_of(self.app)))
        phase = f"{SYMBOLS[self._phase]} {self._phase.value} "
        step = fitted_step(self._step, room - len(phase) - len(STEP_GAP))
        state = Content.assemble(
            (f"{step}{STEP_GAP}" if step else "", "$muted"),
            (phase, TONE_STYLES[PHASE_TONES.get(self._phase, "plain")]),
        )
        room -= state.cell_length
        model = fitted_model(self._model, room - 1)  # with a space before the step
        line = Content.assemble((model, "$muted"), " " * (room - cell_len(model) + 1), state.stylize("bold"))
        self.query_one("#run-line", Static).update(line, layout=False)
