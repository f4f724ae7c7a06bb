"""Panels of a run: figures or status, charts, samples, log."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Container

from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.charts.series import nearest_row
from gpt_tui.charts.view import MIN_REDRAW_S
from gpt_tui.run_view.figures_line import FiguresLine
from gpt_tui.run_view.log_panel import LogPanel
from gpt_tui.run_view.samples_panel import SamplesPanel
from gpt_tui.run_view.status_panel import StatusPanel
from gpt_tui.session.curve import STEP
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_state import RunState, Sample
from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.keymap import KEYS, shown_key
from gpt_tui.tabs.train.guide import Guide
from gpt_tui.tabs.train.guide_strip import GuidedCharts, GuideStrip
from gpt_tui.tabs.train.presenter import Notes, next_notes, notes_title

SWITCH_KEY = next(key for key in KEYS if key.id == "samples.switch")


class RunPanels(Container):
    """Shows a run. The style sheet arranges the panels by the size of the terminal and the classes set here.

    Classes: `-status` with the status panel in place of the line of figures, `-log` with the log in place of the
    samples, `-alone` with samples in place of the charts.
    """

    def __init__(self, guide: Guide, *, id: str) -> None:
        super().__init__(id=id)
        self._guide = guide
        self._run = RunState()
        self._status = SessionStatus(Phase.IDLE)
        self._notes: Notes = "samples"
        self._status_wanted: bool | None = None  # None: wherever the terminal is wide enough
        self._figures_drawn_s = self._charts_drawn_s = 0.0

    def compose(self) -> ComposeResult:
        """Compose all panels; the style sheet hides those without room."""
        yield FiguresLine(id="figures")
        yield GuidedCharts(id="charts")
        yield StatusPanel(id="status")
        yield SamplesPanel(id="samples")
        yield LogPanel(id="log")

    def on_resize(self) -> None:
        """Choose the panels again: another size may have room for others."""
        self._choose_panels()

    @property
    def charts(self) -> RunCharts:
        """The charts."""
        return self.query_one(RunCharts)

    @property
    def visible_charts(self) -> RunCharts | None:
        """The charts, None while the samples take their place."""
        return None if self._notes == "alone" else self.charts

    # -- display

    def show(self, run: RunState, status: SessionStatus, *, at_once: bool) -> None:
        """Show a run.

        Args:
            run: The state of the run.
            status: Phase, time and memory.
            at_once: Redraw everything; else figures twice per second, charts of a long run less often.
        """
        self._run, self._status = run, status
        self.query_one(LogPanel).show(run)
        self.query_one(SamplesPanel).show(run)
        if at_once or status.now_s - self._figures_drawn_s >= MIN_REDRAW_S:
            self._figures_drawn_s = status.now_s
            self._show_figures()
        training = status.phase is Phase.TRAINING
        interval_s = self.charts.view.redraw_interval_s(run.elapsed_s) if training else MIN_REDRAW_S
        if at_once or status.now_s - self._charts_drawn_s >= interval_s:
            self._charts_drawn_s = status.now_s
            self.charts.show(run)
        self.show_note()

    def show_ages(self, status: SessionStatus) -> None:
        """Update the age of the last save."""
        self._status = status
        self._show_figures()

    def show_note(self) -> None:
        """Show the note of the guide for the run, if there is one."""
        self.query_one(GuideStrip).show(self._guide.follow(self._run, self._status.now_s))

    def _show_figures(self) -> None:
        shown = self.query_one(StatusPanel) if self._has_status else self.query_one(FiguresLine)
        shown.status = self._status
        shown.state = self._run

    @on(RunCharts.Pointed)
    def _charts_pointed(self, message: RunCharts.Pointed) -> None:
        """Show the sample that was the newest at the cursor of the charts."""
        message.stop()
        row = None if message.x is None else nearest_row(self._run, message.axis, message.x)
        self.query_one(SamplesPanel).point_at(None if row is None else row[STEP])

    @property
    def pointed_step(self) -> int | None:
        """Step at the cursor of the charts, None without one."""
        view = self.charts.view
        row = None if view.cursor is None else nearest_row(self._run, view.axis, view.cursor)
        return None if row is None else int(row[STEP])

    @property
    def current_sample(self) -> Sample | None:
        """The sample that the panel shows first, or the newest one."""
        return self.query_one(SamplesPanel).current

    # -- choice of panels

    @property
    def _has_status(self) -> bool:
        return not self.screen.has_class("-narrow") if self._status_wanted is None else self._status_wanted

    @property
    def _both_seen(self) -> bool:
        """True if samples and log are both visible."""
        return self.screen.has_class("-tall")

    def _choose_panels(self) -> None:
        self.set_class(self._has_status, "-status")
        self.set_class(self._notes == "log" and not self._both_seen, "-log")
        self.set_class(self._notes == "alone", "-alone")
        key = shown_key(SWITCH_KEY, keymap_of(self.app))
        panels: dict[Notes, SamplesPanel | LogPanel] = {
            "samples": self.query_one(SamplesPanel),
            "log": self.query_one(LogPanel),
        }
        for name, panel in panels.items():
            panel.border_title = notes_title(self._notes, name, both_seen=self._both_seen, key=key)

    def toggle_status(self) -> None:
        """Show the status panel, or the line of figures in its place."""
        self._status_wanted = not self._has_status
        self._choose_panels()
        self._show_figures()

    def switch_notes(self) -> None:
        """Show the samples, the log in their place, or the samples without the charts."""
        self._notes = next_notes(self._notes, both_seen=self._both_seen)
        self._choose_panels()

    # -- scrolling

    @property
    def _scrolled_panel(self) -> SamplesPanel | LogPanel:
        """The panel that the keys scroll: the log where it replaces the samples."""
        samples = self.query_one(SamplesPanel)
        return samples if samples.display else self.query_one(LogPanel)

    def scroll_notes(self, number: int) -> None:
        """Scroll by `number` samples, or lines of the log."""
        panel = self._scrolled_panel
        if isinstance(panel, SamplesPanel):
            panel.go(number)
        else:
            panel.scroll_relative(y=number, animate=False)

    def scroll_notes_by_pages(self, pages: int) -> None:
        """Scroll samples or log by pages."""
        panel = self._scrolled_panel
        if isinstance(panel, SamplesPanel):
            panel.go_page(pages)
        else:
            panel.scroll_relative(y=pages * panel.size.height, animate=False)

    def scroll_notes_to_end(self, *, first: bool) -> None:
        """Scroll to the first sample or line, or to the newest one and follow it."""
        panel = self._scrolled_panel
        if isinstance(panel, SamplesPanel):
            panel.go_to_end(first=first)
        elif first:
            panel.scroll_home(animate=False)
        else:
            panel.scroll_end(animate=False)
