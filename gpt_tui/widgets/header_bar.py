"""The first line of the screen: the program, its tabs, what it trains, and the state it is in."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static, Tab, Tabs

from gpt_tui.keymap import TABS
from gpt_tui.run_status import PHASE_TONES, SYMBOLS, Phase
from gpt_tui.widgets.status_panel import TONE_STYLES


class HeaderBar(Horizontal):
    """`Tabs.TabActivated` goes out when a tab is chosen."""

    _shown: Content | None = None
    _model = ""

    def compose(self) -> ComposeResult:
        """Name, tabs, model, state."""
        yield Static(" gpt-tui ", id="program", markup=False)
        yield Tabs(*(Tab(facts.title, id=f"tab-{name}") for name, facts in TABS.items()), id="tabs")
        yield Static("", id="model", markup=False)
        yield Static("", id="state", markup=False)

    def show_model(self, text: str) -> None:
        """What is trained."""
        if text != self._model:
            self._model = text
            self.query_one("#model", Static).update(Content(text), layout=False)

    def show_state(self, phase: Phase, step: str) -> None:
        """The state in a word and its sign, and the step."""
        words = Content.styled(f"{SYMBOLS[phase]} {phase.value} ", TONE_STYLES[PHASE_TONES.get(phase, "plain")])
        shown = Content.assemble((f"{step}  " if step else "", "$foreground 60%"), words)
        if shown != self._shown:
            self._shown = shown
            self.query_one("#state", Static).update(shown, layout=False)
