"""Welcome view of the Train tab: what a start would train and how long it takes, the keys, recent runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from gpt_tui.new_run.probe import MEASURING, EstimateChanged, Prober, Probes
from gpt_tui.session.recent_runs import RecentRuns, read_recent_runs
from gpt_tui.session.run_finder import RunStatus, log_updated_at
from gpt_tui.session.run_preview import RunPreview
from gpt_tui.shared.bindings import keymap_of
from gpt_tui.shared.formatting import bar, minutes_text, percent
from gpt_tui.shared.keymap import help_table, places_of, shown_keys
from gpt_tui.shared.row_rendering import render_keys
from gpt_tui.shared.rows import TONE_STYLES
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.train.countdown import CountdownLine
from gpt_tui.tabs.train.presenter import labeled_actions, preview_rows, resume_choice
from gpt_tui.tabs.train.welcome_text import Panel, fitted_rows, runs_panel, sample_panel, with_estimate

LABEL_WIDTH = 11
KEY_WIDTH = 16
BAR_WIDTH = 30
MAX_TEXT_WIDTH, MARGIN = 84, 8
KEYS_MARGIN = 4  # rows around the list of keys
MIN_WITH_KEYS = (170, 44)  # size of a terminal with room for the list of keys
OTHER_LINES = 5  # title, countdown, and the empty lines between


def action_lines(actions: Sequence[tuple[str, str]], keys: Mapping[str, str]) -> list[Content]:
    """Return a line per action, with its key.

    Args:
        actions: Actions with their labels.
        keys: The displayed key of each action.
    """
    width = max(len(keys[action]) for action, _ in actions)
    return [
        Content.assemble((f" {keys[action].center(width)} ", "bold reverse"), f"  {label}") for action, label in actions
    ]


class Welcome(VerticalScroll):
    """Shows the preview of a run with an estimate, or the progress of opening one.

    Where there is room: recent runs and the newest sample, and all keys.

    Args:
        probes: Measurements of the estimate.
    """

    can_focus = False

    class RecentRead(Message, bubble=False):
        """The recent runs are known. Posted by a worker thread."""

        def __init__(self, recent: RecentRuns) -> None:
            super().__init__()
            self.recent = recent

    def __init__(self, probes: Probes, *, id: str) -> None:
        super().__init__(id=id)
        self._probes = probes
        self._prober = Prober(probes, self.post_message)
        self._preview: RunPreview | None = None
        self._rows: Sequence[tuple[str, str]] = ()
        self._available: Set[str] = frozenset()
        self._recent = RecentRuns()

    def compose(self) -> ComposeResult:
        """Compose the preview with the countdown, the recent runs beside it, and the keys."""
        with Vertical(id="welcome-main"):
            yield Static("", id="welcome-text", markup=False)
            yield CountdownLine(id="welcome-countdown")
        with Vertical(id="welcome-side"):
            yield Static("", id="welcome-runs", classes="panel", markup=False)
            yield Static("", id="welcome-sample", classes="panel", markup=False)
        yield Static("", id="welcome-keys", classes="panel", markup=False)

    def on_resize(self) -> None:
        """Lay out the text again, after the layout of this size: an update within it would keep the earlier height."""
        self.set_class(self._has_keys, "-with-keys")
        self.call_after_refresh(self._draw)

    def on_unmount(self) -> None:
        """Stop the measurement."""
        self._prober.cancel()

    @property
    def countdown(self) -> CountdownLine:
        """The countdown of a first start."""
        return self.query_one(CountdownLine)

    @property
    def _keys(self) -> dict[str, str]:
        """The displayed key of each action."""
        return shown_keys(keymap_of(self.app))

    # -- contents

    def show_preview(
        self, preview: RunPreview, changes: Mapping[str, str], available: Set[str], model_reason: str = ""
    ) -> None:
        """Show what a start would train, and what else can be done; measure how long it takes.

        Args:
            preview: The files and checkpoints of the run.
            changes: Settings that were changed in the set-up screen, as text.
            available: The available actions of the "train" keys.
            model_reason: Why a time budget has led to the settings, "" if it has not.
        """
        self._preview, self._available = preview, available
        self._rows = preview_rows(preview, changes, model_reason)
        self.remove_class("-opening")
        if preview.problem:
            self._prober.clear()
        else:
            self._prober.start(preview.settings)
        self._draw()
        self.run_worker(self._read_recent, thread=True, exclusive=True, group="recent", exit_on_error=False)

    def stop_measuring(self) -> None:
        """Stop the measurement: a run needs the processor. The next preview starts it again."""
        self._prober.cancel()

    def _read_recent(self) -> None:
        if self._preview is not None:
            self.post_message(self.RecentRead(read_recent_runs(self._preview.settings.models_dir, Path())))

    @on(RecentRead)
    def _recent_read(self, message: RecentRead) -> None:
        self._recent = message.recent
        self._draw()

    @on(EstimateChanged)
    def _estimate_changed(self) -> None:
        self._draw()

    def show_measuring(self, minutes: float, preview: RunPreview, *, starts: bool = False) -> None:
        """Show that this machine is measured for a time budget; the measurement of the preview stops.

        Args:
            minutes: The time budget.
            preview: The files and checkpoints of the run, with the one to resume.
            starts: True if the run starts after that.
        """
        self.stop_measuring()
        self.add_class("-opening")
        text = Content.assemble(
            (f"Train for {minutes_text(minutes)}\n\n", "bold"), f"{MEASURING}\n\n",
            ("The model and its schedule follow from the time, the text and the speed.", "$muted"),
            "\n\nThe run starts after that (Esc: cancel)." if starts else "",
        )  # fmt: skip
        if resumable := preview.stored.resumable:
            choice = ("resume", resume_choice(preview.settings, resumable, time.time()))
            text = Content("\n").join([text, Content(""), *action_lines([choice], self._keys)])
        self.query_one("#welcome-text", Static).update(text)

    def show_opening(self, activity: str, fraction: float) -> None:
        """Show what a starting run does, and its progress from 0 to 1."""
        self.stop_measuring()
        self.add_class("-opening")
        self.query_one("#welcome-text", Static).update(
            Content.assemble(
                ("Getting ready\n\n", "bold"), f"{one_line(activity)}\n",
                (bar(fraction, BAR_WIDTH), "$primary"), f" {percent(fraction)}\n\n",
                ("Only the first start tokenizes the text; later ones read the token cache.", "$muted"),
            )
        )  # fmt: skip

    # -- drawing

    @property
    def _has_keys(self) -> bool:
        return self.app.size.width >= MIN_WITH_KEYS[0] and self.app.size.height >= MIN_WITH_KEYS[1]

    @property
    def _room(self) -> int:
        columns = self.app.size.width
        if self.screen.has_class("-very-wide"):
            columns = columns // (3 if self._has_keys else 2)
        return max(columns - MARGIN, 30)

    @property
    def _text_width(self) -> int:
        return min(self._room, MAX_TEXT_WIDTH)

    def show_ages(self) -> None:
        """Update the ages of checkpoints and runs; the log of a run in training may have grown."""
        runs = tuple(
            run._replace(updated_at=log_updated_at(run.folder)) if run.status is RunStatus.LIVE else run
            for run in self._recent.runs
        )
        self._recent = self._recent._replace(runs=runs)
        self._draw()

    def _draw(self) -> None:
        if self._preview is None or self.has_class("-opening"):
            return
        self._update("#welcome-text", self._preview_text(self._preview))
        self.countdown.room = self._room
        self._draw_panel("#welcome-runs", runs_panel(self._recent, self._keys, time.time(), self._text_width))
        self._draw_panel("#welcome-sample", sample_panel(self._recent))
        if self._has_keys:
            self._draw_keys()

    def _preview_text(self, preview: RunPreview) -> Content:
        actions = labeled_actions(preview, self._available, time.time())
        rows = fitted_rows(
            with_estimate(self._rows, self._prober.estimate),
            self._text_width - LABEL_WIDTH,
            max(4, self.size.height - len(actions) - OTHER_LINES),
        )
        what = "Train a GPT from scratch" if preview.start is None else "Fine-tune a trained GPT"
        lines = [Content.styled(f"{what}, watch it learn, chat with it.", "bold"), Content("")]
        for label, parts in rows:
            style = "bold $error" if label == "problem" else ""
            for part in parts:
                lines.append(Content.assemble((label.ljust(LABEL_WIDTH), "$muted"), (part, style)))
                label = ""
        lines.append(Content(""))
        return Content("\n").join([*lines, *action_lines(actions, self._keys)])

    def _draw_panel(self, selector: str, panel: Panel | None) -> None:
        widget = self.query_one(selector, Static)
        widget.display = panel is not None
        if panel is not None:
            widget.border_title = panel.title
            lines = (Content.styled(text, TONE_STYLES[tone]) for text, tone in panel.lines)
            self._update(selector, Content("\n").join(lines))

    def _draw_keys(self) -> None:
        """Show the tables of keys that fit as a whole; the help has all of them."""
        lines: list[Content] = []
        for title, keys in help_table([*places_of("train"), "everywhere"], keymap_of(self.app)):
            rows = [(f" {names}", words) for names, words in keys]
            table = render_keys(title, rows, KEY_WIDTH, self._text_width)
            if len(lines) + len(table) <= self.size.height - KEYS_MARGIN:
                lines += table
        widget = self.query_one("#welcome-keys", Static)
        widget.border_title = "keys"
        self._update("#welcome-keys", Content("\n").join(lines))

    def _update(self, selector: str, content: Content) -> None:
        """Update a text, unless it is the same: an update lays out the screen again."""
        widget = self.query_one(selector, Static)
        if not (isinstance(widget.content, Content) and widget.content.is_same(content)):
            widget.update(content)
