"""Runs tab: the list of runs, with the charts of the selected run or a comparison of the marked ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Static
from textual.worker import Worker, WorkerState, get_current_worker

from gpt_core.config.settings import Settings
from gpt_tui.charts.chart_keys import ChartKeys
from gpt_tui.charts.overlay import MAX_RUNS, NamedRun
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.charts.view import ChartView
from gpt_tui.session.run_finder import RunFinder, RunInfo, RunReader, RunStatus
from gpt_tui.session.run_state import RunState, Sample
from gpt_tui.shared.bindings import bindings, keymap_of
from gpt_tui.shared.keymap import with_keys
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.runs.compare_charts import CompareCharts
from gpt_tui.tabs.runs.presenter import (
    TITLE,
    default_metric,
    details,
    empty_text,
    marked_text,
    name_of,
    tokenizer_note,
)
from gpt_tui.tabs.runs.run_detail import RunDetail
from gpt_tui.tabs.runs.runs_table import RunsTable

POLL_S = 1.0
FIND_EVERY = 2  # polls between two searches for runs
POST_INTERVAL_S = 0.3  # while a long log is read
MIN_REST_S = 0.005  # after each chunk of a long log


class RunsTab(Container):
    """List of runs and view of the selected ones, whose logs a thread follows while the tab is visible.

    With a `watched` folder, it follows them while the tab is hidden, too.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")

    class RunsFound(Message, bubble=False):
        """The runs were found, in a thread."""

        def __init__(self, runs: Sequence[RunInfo]) -> None:
            super().__init__()
            self.runs = runs

    class RunsRead(Message, bubble=False):
        """More of the followed logs was read, in a thread; `histories` are the runs by folder."""

        def __init__(self, histories: Mapping[Path, RunState]) -> None:
            super().__init__()
            self.histories = histories

    class CopyRequested(Message):
        """A run with the settings of the one in `folder`, changed in the set-up screen, is requested."""

        def __init__(self, folder: Path, settings: Settings, preset_name: str) -> None:
            super().__init__()
            self.folder = folder
            self.settings = settings
            self.preset_name = preset_name

    class InsideRequested(Message):
        """Request to look inside the model of this checkpoint, at this step if the charts have a cursor."""

        def __init__(self, path: Path, step: int | None) -> None:
            super().__init__()
            self.path = path
            self.step = step

    class SurpriseRequested(Message):
        """Request to color a sample of a run by surprise."""

        def __init__(self, run: RunInfo, sample: Sample) -> None:
            super().__init__()
            self.run = run
            self.sample = sample

    def __init__(self, models_dir: Path, *, watched: Path | None = None, id: str) -> None:
        super().__init__(id=id)
        self._models_dir = models_dir
        self._watched = watched
        self._reader = RunReader(RunFinder((models_dir, Path()), watched))
        self._runs: dict[Path, RunInfo] = {}
        self._histories: dict[Path, RunState] = {}
        self._marks: dict[Path, int] = {}
        self._to_mark: tuple[Path, ...] = ()
        self._polls = 0
        self._followed: tuple[RunInfo, ...] = ()  # the runs shown, which the thread reads
        self._worker: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        """Lay out the list and the view: a text, one run, or several."""
        with ChartKeys(lambda: self.charts, self._find_export, id="runs-body"):
            yield RunsTable(id="runs-table")
            with ContentSwitcher(initial="runs-empty", id="runs-view"):
                yield Static("looking for runs…", id="runs-empty", markup=False)
                yield RunDetail(id="runs-one")
                yield CompareCharts(id="runs-several")

    def on_mount(self) -> None:
        """Start polling."""
        table = self.query_one(RunsTable)
        table.border_title = TITLE
        table.display = False
        self.set_interval(POLL_S, self._poll)

    def enter(self) -> Widget:
        """Poll at once, and return the widget to focus, the list; called when the tab is shown."""
        self._polls = 0
        self._poll()
        return self.query_one(RunsTable)

    def include_folder(self, models_dir: Path) -> None:
        """List the runs of another models folder as well, which the next run has."""
        self._models_dir = models_dir
        finder = self._reader.finder
        if models_dir not in finder.places:
            finder.places = (models_dir, *finder.places)
            self._polls = 0  # finds its runs at the next poll

    @property
    def charts(self) -> RunCharts | None:
        """The visible charts, if any."""
        shown = self.query_one("#runs-view", ContentSwitcher).current
        if shown == "runs-one":
            return self.query_one(RunDetail).charts
        return self.query_one(CompareCharts) if shown == "runs-several" else None

    @property
    def pointed_step(self) -> int | None:
        """Step at the cursor of the charts of one run, None without one."""
        shown = self.query_one("#runs-view", ContentSwitcher).current
        return self.query_one(RunDetail).pointed_step if shown == "runs-one" else None

    def _find_export(self) -> tuple[RunCharts, Path] | None:
        """Return the visible charts, and the run's folder; of a comparison, the models folder."""
        charts = self.charts
        if charts is None or not self._followed:
            return None
        return charts, self._followed[0].folder if len(self._followed) == 1 else self._models_dir

    # -- reading in a thread

    def _poll(self) -> None:
        """Find runs at every `FIND_EVERY`th poll, and read the followed logs that may have grown."""
        if not self.display and self._watched is None:
            return
        find = self._polls % FIND_EVERY == 0
        if self._start_reading(find=find):
            self._polls += 1

    def _start_reading(self, *, find: bool) -> bool:
        """Start the thread if there is something to read; return False if it is still running."""
        if self._worker is not None and not self._worker.is_finished:
            return False
        if find or any(self._may_grow(run) for run in self._followed):
            self._worker = self.run_worker(
                partial(self._read, get_followed=lambda: self._followed, find=find), thread=True, exit_on_error=False
            )
        return True

    def _may_grow(self, run: RunInfo) -> bool:
        """Return True unless the log has ended, or cannot have grown by more than a dot of the charts in a poll."""
        history = self._histories.get(run.folder)
        if history is None:
            return True
        view = self.charts.view if self.charts else ChartView()
        is_growing = run.status.is_live or run.status is RunStatus.WAITING
        return is_growing and view.redraw_interval_s(history.elapsed_s) <= POLL_S

    def _read(self, get_followed: Callable[[], tuple[RunInfo, ...]], *, find: bool) -> None:
        """Read what is new, and post it at intervals if that takes long. Runs in the thread."""
        worker = get_current_worker()
        if find:
            self.post_message(self.RunsFound(self._reader.find()))
        posted_at_s, at_end, followed = 0.0, False, get_followed()
        while not at_end and not worker.is_cancelled:
            started_s, followed = time.monotonic(), get_followed()
            at_end = self._reader.read(followed)
            if at_end or started_s - posted_at_s >= POST_INTERVAL_S:
                posted_at_s = started_s
                self.post_message(self.RunsRead(self._reader.histories(followed)))
            if not at_end:
                rest(started_s)
        while not worker.is_cancelled and get_followed() is followed:
            started_s = time.monotonic()
            if not self._reader.scan_more():
                break
            rest(started_s)

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """Notify the user of an unexpected error of the thread."""
        message.stop()
        if message.state is WorkerState.ERROR:
            self.notify(one_line(str(message.worker.error)), title="runs not read", severity="error", markup=False)

    def on_runs_tab_runs_found(self, message: RunsFound) -> None:
        """Update the list."""
        self._runs = {run.folder: run for run in message.runs}
        self._marks = {folder: mark for folder, mark in self._marks.items() if folder in self._runs}
        self._mark_compared()
        self._show()

    def on_runs_tab_runs_read(self, message: RunsRead) -> None:
        """Update the charts."""
        self._histories = dict(message.histories)
        if any(run.status.is_live and self._history(run).finished for run in self._followed):
            self._polls = 0  # updates the list at the next poll
        self._show_curves()

    def on_runs_table_selected(self, message: RunsTable.Selected) -> None:
        """Show the run under the cursor."""
        message.stop()
        self._show_curves()
        self._start_reading(find=False)

    # -- display

    def _history(self, run: RunInfo) -> RunState:
        return self._histories.get(run.folder) or RunState(limits=run.checkpoint.limits)

    def _show(self) -> None:
        """Update the list and the view."""
        table = self.query_one(RunsTable)
        table.display = bool(self._runs)
        table.border_subtitle = marked_text(len(self._marks))
        table.show(list(self._runs.values()), self._marks, time.time())
        if self.display and self._runs and self.screen.focused is None:
            table.focus()
        self._show_curves()

    def _show_curves(self) -> None:
        """Show the marked runs, if there are at least two, else the run under the cursor."""
        marked = sorted((run for run in self._runs.values() if run.folder in self._marks), key=self._mark)
        selected = self.query_one(RunsTable).selected if self._runs else None
        switcher = self.query_one("#runs-view", ContentSwitcher)
        before = switcher.current
        if len(marked) > 1:
            self._followed = tuple(marked)
            switcher.current = "runs-several"
            self._show_several(marked)
        elif selected is not None and self._history(selected).started is not None:
            self._followed = (selected,)
            switcher.current = "runs-one"
            self.query_one(RunDetail).show(selected, self._history(selected))
        else:
            self._followed = (selected,) if selected else ()
            switcher.current = "runs-empty"
            text = with_keys(empty_text(selected, self._watched), keymap_of(self.app))
            self.query_one("#runs-empty", Static).update(Content(text))
        if switcher.current != before:
            self.screen.refresh_bindings()

    def _show_several(self, runs: Sequence[RunInfo]) -> None:
        charts = self.query_one(CompareCharts)
        charts.default_metric = default_metric(runs)
        named = [NamedRun(self._mark(run), name_of(run.folder), self._history(run)) for run in runs]
        charts.show_runs(named, details(runs), tokenizer_note(runs))

    def _mark(self, run: RunInfo) -> int:
        return self._marks[run.folder]

    def compare(self, *folders: Path) -> None:
        """Mark the runs in these folders, and no other, as soon as all of them are found."""
        self._to_mark = folders

    def _mark_compared(self) -> None:
        if not self._to_mark:
            return
        found = {os.path.realpath(folder): folder for folder in self._runs}
        wanted = [found[path] for path in map(os.path.realpath, self._to_mark) if path in found]
        if len(wanted) == len(self._to_mark):
            self._marks = {folder: number for number, folder in enumerate(wanted, 1)}
            self._to_mark = ()

    # -- keys

    def action_duplicate(self) -> None:
        """Request a run with the settings of the one under the cursor."""
        run = self.query_one(RunsTable).selected
        if run is None:
            return
        if run.checkpoint.settings is None:
            name = name_of(run.folder)
            self.notify(f"{name} has no checkpoint, which holds the settings to duplicate", markup=False)
            return
        preset_name = run.started.preset if run.started else ""
        self.post_message(self.CopyRequested(run.folder, run.checkpoint.settings, preset_name))

    def action_look_inside(self) -> None:
        """Show the newest model of the run under the cursor in the Inside tab."""
        if (run := self.query_one(RunsTable).selected) is None:
            return
        if run.checkpoint.path is None:
            self.notify(f"{name_of(run.folder)} has no checkpoint to look into yet", markup=False)
            return
        self.post_message(self.InsideRequested(run.checkpoint.path, self.pointed_step))

    def action_show_surprise(self) -> None:
        """Color the current sample of the run under the cursor by surprise."""
        run, sample = self.query_one(RunsTable).selected, self.query_one(RunDetail).current_sample
        if run is not None and sample is not None:
            self.post_message(self.SurpriseRequested(run, sample))
        else:
            self.notify("no sample to color yet", severity="warning")

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor."""
        if (selected := self.query_one(RunsTable).selected) is None:
            return
        if self._marks.pop(selected.folder, None) is None:
            free = sorted(set(range(1, MAX_RUNS + 1)) - set(self._marks.values()))
            if not free:
                self.notify(f"{MAX_RUNS} runs are marked, which is the maximum; unmark one first")
                return
            self._marks[selected.folder] = free[0]
        self._show()
        self._start_reading(find=False)

    def action_unmark(self) -> None:
        """Unmark all runs."""
        self._marks.clear()
        self.query_one(CompareCharts).metric_name = ""
        self._show()

    def action_switch_panels(self) -> None:
        """Switch between samples, log and neither."""
        self.query_one(RunDetail).switch_panels()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the keys that have no effect now."""
        shown = self.query_one("#runs-view", ContentSwitcher).current if self.is_mounted else ""
        if action in ("mark", "duplicate"):
            return bool(self._runs)
        if action == "unmark":
            return bool(self._marks)
        return action not in ("switch_panels", "show_surprise") or shown == "runs-one"


def rest(started_s: float) -> None:
    """Sleep twice as long as the thread has worked, so that the screen has most of the time."""
    time.sleep(max(MIN_REST_S, 2 * (time.monotonic() - started_s)))
