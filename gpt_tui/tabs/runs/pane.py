"""The Runs tab: the list of runs, and the charts of the one under the cursor or of those that are marked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.widgets import ContentSwitcher, Static
from textual.worker import Worker, WorkerState, get_current_worker

from gpt_tui.charts.chart_keys import ChartKeys
from gpt_tui.charts.overlay import MOST_LAID_OVER, NamedRun
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.bindings import bindings
from gpt_tui.shared.messages import RunsFound, RunsRead
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.runs.compare_charts import CompareCharts
from gpt_tui.tabs.runs.presenter import best_quantity, details, empty_words, marked_words, name_of, vocabulary_note
from gpt_tui.tabs.runs.reader import RunReader
from gpt_tui.tabs.runs.run_detail import RunDetail
from gpt_tui.tabs.runs.run_finder import RunFinder, RunLog, RunStatus
from gpt_tui.tabs.runs.table import RunsTable

POLL_S = 0.5
LOOK_EVERY = 4  # polls; a run that has ended is looked at no more often
TELL_EVERY_S = 0.3  # while a long log is being read
LEAST_REST_S = 0.005  # after each piece of a long log


class RunsTab(Container):
    """Follows the wanted runs' logs in a thread while it is seen, or always in `watched`'s case."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")

    def __init__(self, models_dir: Path, *, watched: Path | None = None, id: str) -> None:
        super().__init__(id=id)
        self._watched = watched
        self._reader = RunReader(RunFinder(models_dir, Path(), watched))
        self._runs: dict[Path, RunLog] = {}
        self._histories: dict[Path, RunState] = {}
        self._marks: dict[Path, int] = {}
        self._quantity_is_chosen = False
        self._polls = 0
        self._wanted: tuple[RunLog, ...] = ()  # whose curves are shown; the thread reads it
        self._worker: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        """The list; then nothing yet, one run or several."""
        with ChartKeys(lambda: self.charts, id="runs-body"):
            yield RunsTable(id="runs-table")
            with ContentSwitcher(initial="runs-empty", id="runs-view"):
                yield Static("", id="runs-empty", markup=False)
                yield RunDetail(id="runs-one")
                yield CompareCharts(id="runs-several")

    def on_mount(self) -> None:
        """The pulse."""
        table = self.query_one(RunsTable)
        table.border_title = "runs"
        table.display = False
        self.set_interval(POLL_S, self._poll)

    def enter(self) -> None:
        """The user has come here."""
        self.query_one(RunsTable).focus()
        self._polls = 0
        self._poll()

    @property
    def charts(self) -> RunCharts | None:
        """The charts of the chosen runs, if there are any."""
        shown = self.query_one("#runs-view", ContentSwitcher).current
        if shown == "runs-one":
            return self.query_one(RunDetail).charts
        return self.query_one(CompareCharts) if shown == "runs-several" else None

    # -- reading, in a thread

    def _poll(self) -> None:
        """Twice a second: looks for runs now and then, and reads on in those that may have grown."""
        if not self.display and self._watched is None:
            return
        look = self._polls % LOOK_EVERY == 0
        if self._read_soon(look=look):
            self._polls += 1

    def _read_soon(self, *, look: bool) -> bool:
        """Sets the thread to work, if there is anything for it to do; False while it is at work already."""
        if self._worker is not None and not self._worker.is_finished:
            return False
        if look or any(self._may_grow(run) for run in self._wanted):
            self._worker = self.run_worker(
                partial(self._read, get_wanted=lambda: self._wanted, look=look), thread=True, exit_on_error=False
            )
        return True

    def _may_grow(self, run: RunLog) -> bool:
        return run.state in (RunStatus.LIVE, RunStatus.WAITING) or run.folder not in self._histories

    def _read(self, get_wanted: Callable[[], tuple[RunLog, ...]], *, look: bool) -> None:
        """In the thread: what is new, told bit by bit where that takes long."""
        worker = get_current_worker()
        if look:
            self.post_message(RunsFound(self._reader.look()))
        told_at_s, at_end, wanted = 0.0, False, get_wanted()
        while not at_end and not worker.is_cancelled:
            begun_s, wanted = time.monotonic(), get_wanted()
            at_end = self._reader.read(wanted)
            if at_end or begun_s - told_at_s >= TELL_EVERY_S:
                told_at_s = begun_s
                self.post_message(RunsRead(self._reader.histories(wanted)))
            if not at_end:
                rest(begun_s)
        while not worker.is_cancelled and get_wanted() is wanted:
            begun_s = time.monotonic()
            if not self._reader.look_on():
                break
            rest(begun_s)

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """Nothing that a folder may hold should end up here; if it does, the user is told."""
        message.stop()
        if message.state is WorkerState.ERROR:
            self.notify(one_line(str(message.worker.error)), title="runs not read", severity="error", markup=False)

    def on_runs_found(self, message: RunsFound) -> None:
        """The list as it is now."""
        self._runs = {run.folder: run for run in message.runs}
        self._marks = {folder: mark for folder, mark in self._marks.items() if folder in self._runs}
        self._show()

    def on_runs_read(self, message: RunsRead) -> None:
        """Their curves."""
        self._histories = dict(message.histories)
        if any(run.state is RunStatus.LIVE and self._history(run).finished for run in self._wanted):
            self._polls = 0  # the list is to say so, too
        self._show_curves()

    def on_runs_table_chosen(self, message: RunsTable.Chosen) -> None:
        """Another run is under the cursor."""
        message.stop()
        self._show_curves()
        self._read_soon(look=False)

    # -- what is shown

    def _history(self, run: RunLog) -> RunState:
        return self._histories.get(run.folder) or RunState(limits=run.kept.limits)

    def _show(self) -> None:
        """The list, then the curves."""
        table = self.query_one(RunsTable)
        table.display = bool(self._runs)
        table.border_subtitle = marked_words(len(self._marks))
        table.show(list(self._runs.values()), self._marks, time.time())
        if self.display and self._runs and self.screen.focused is None:
            table.focus()
        self._show_curves()

    def _show_curves(self) -> None:
        """Those of the marked runs, if there are two at least, else those of the run under the cursor."""
        marked = sorted((run for run in self._runs.values() if run.folder in self._marks), key=self._mark)
        chosen = self.query_one(RunsTable).chosen if self._runs else None
        switcher = self.query_one("#runs-view", ContentSwitcher)
        before = switcher.current
        if len(marked) > 1:
            self._wanted = tuple(marked)
            switcher.current = "runs-several"
            self._show_several(marked)
        elif chosen is not None and self._history(chosen).started is not None:
            self._wanted = (chosen,)
            switcher.current = "runs-one"
            self.query_one(RunDetail).show(chosen, self._history(chosen))
        else:
            self._wanted = (chosen,) if chosen else ()
            switcher.current = "runs-empty"
            self.query_one("#runs-empty", Static).update(Content(empty_words(chosen, self._watched)))
        if switcher.current != before:
            self.screen.refresh_bindings()

    def _show_several(self, runs: Sequence[RunLog]) -> None:
        charts = self.query_one(CompareCharts)
        if not self._quantity_is_chosen:
            charts.quantity = best_quantity(runs)
        named = [NamedRun(self._mark(run), name_of(run.folder), self._history(run)) for run in runs]
        charts.show_several(named, details(runs), vocabulary_note(runs))

    def _mark(self, run: RunLog) -> int:
        return self._marks[run.folder]

    # -- keys

    def action_mark(self) -> None:
        """Takes the run under the cursor to those that are laid over each other, or away from them."""
        if (chosen := self.query_one(RunsTable).chosen) is None:
            return
        if self._marks.pop(chosen.folder, None) is None:
            free = sorted(set(range(1, MOST_LAID_OVER + 1)) - set(self._marks.values()))
            if not free:
                self.notify(f"{MOST_LAID_OVER} runs are marked, more cannot be told apart; unmark one first")
                return
            self._marks[chosen.folder] = free[0]
        self._show()
        self._read_soon(look=False)

    def action_unmark(self) -> None:
        """One run at a time again."""
        self._marks.clear()
        self._quantity_is_chosen = False
        self._show()

    def action_next_quantity(self) -> None:
        """Loss, perplexity, bits a byte."""
        self._quantity_is_chosen = True
        self.query_one(CompareCharts).next_quantity()

    def action_switch_notes(self) -> None:
        """Samples, log, or neither."""
        self.query_one(RunDetail).switch_notes()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys are there when they make sense."""
        shown = self.query_one("#runs-view", ContentSwitcher).current if self.is_mounted else ""
        if action == "mark":
            return bool(self._runs)
        if action == "unmark":
            return bool(self._marks)
        wanted = {"next_quantity": "runs-several", "switch_notes": "runs-one"}.get(action)
        return wanted is None or wanted == shown


def rest(begun_s: float) -> None:
    """In the thread: twice as long as it has worked since then, so that most of the time is the screen's."""
    time.sleep(max(LEAST_REST_S, 2 * (time.monotonic() - begun_s)))
