"""How a headless run is shown: as JSON Lines, as plain lines, or with progress bars on a terminal.

A reporter is given the events that came since the last time, and the run's history up to them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from gpt_core.training.events import LOGGED, AnyEvent, StepCompleted, to_json
from gpt_tui.headless.event_text import figures, is_training, news, steps_line
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.formatting import clock, percent, whole
from gpt_tui.shared.sanitize import one_line

PLAIN_INTERVAL_S = 2.0
MOST_CHARACTERS = 10_000  # of a line; the norms of every tensor take some
COLOURS = {"plain": "", "good": "green", "bad": "bold red", "dim": "dim"}


class Reporter(Protocol):
    """Shows one run."""

    def preparing(self, stage: str, share: float) -> None:
        """The run is not ready yet: what is being done, and how much of it is (0 to 1)."""

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """These events came, and `history` is the run with them. Raises BrokenPipeError when nobody reads any more."""

    def close(self) -> None:
        """The run is over; leave the terminal as it was."""


def reporter_for(as_json: bool, is_stopping: Callable[[], bool]) -> Reporter:
    """The reporter that suits where standard output goes. `is_stopping` tells whether a stop was asked for."""
    if as_json:
        return JsonReporter()
    if sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return BarsReporter(is_stopping)
    return PlainReporter()


class JsonReporter:
    """The lines of metrics.jsonl on standard output, as they are written there."""

    def preparing(self, stage: str, share: float) -> None:
        """Standard output is for events only, and whoever reads them needs no news of the preparation."""

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Print the events that are logged."""
        lines = [to_json(event).decode() + "\n" for event in events if isinstance(event, LOGGED)]
        print(end="".join(lines), flush=True)

    def close(self) -> None:
        """Nothing was changed."""


class PlainReporter:
    """One line for what happens, and one every two seconds for the steps: their mean loss since the line before."""

    def __init__(self) -> None:
        self._last_line_s = -PLAIN_INTERVAL_S
        self._losses: list[float] = []
        self._stage, self._stage_line_s = "", 0.0

    def preparing(self, stage: str, share: float) -> None:
        """A line on standard error when a stage begins, and every two seconds while it lasts."""
        now = time.monotonic()
        if stage != self._stage or now - self._stage_line_s >= PLAIN_INTERVAL_S:
            print(one_line(stage) + (f" {percent(share)}" if share else ""), file=sys.stderr, flush=True)
            self._stage, self._stage_line_s = stage, now

    def close(self) -> None:
        """Nothing was changed."""

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Print what happened; the steps before it come first."""
        self._losses += [event.loss for event in events if isinstance(event, StepCompleted)]
        lines = [line for event in events for line, _ in news(event, history)]
        if self._losses and (lines or time.monotonic() - self._last_line_s >= PLAIN_INTERVAL_S):
            self._print_steps(history)
        for line in lines:
            print(one_line(line, MOST_CHARACTERS), flush=True)

    def _print_steps(self, history: RunState) -> None:
        mean = sum(self._losses) / len(self._losses)
        print(steps_line(history, mean), flush=True)
        self._losses, self._last_line_s = [], time.monotonic()


class BarsReporter:
    """Bars for the run, its epoch and an evaluation, figures below them, and what happens printed above."""

    def __init__(self, is_stopping: Callable[[], bool], console: Console | None = None) -> None:
        self._is_stopping = is_stopping
        self._console = console or Console(highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            expand=True,
        )
        self._run = self._bars.add_task("preparing", total=1.0, left="")
        self._epoch = self._bars.add_task("epoch", total=1.0, left="", visible=False)
        self._eval = self._bars.add_task("scoring the eval text", total=1.0, left="", visible=False)
        self._figures = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(get_renderable=self._drawn, console=self._console, refresh_per_second=8)
        self._live.start()

    def _drawn(self) -> Group:
        """What is redrawn, also while a long step takes its time."""
        parts: list[RenderableType] = [self._bars, self._figures]
        if self._is_stopping():
            parts.append(Text("stopping and saving; Ctrl+C again stops at once, without saving", no_wrap=True))
        return Group(*parts)

    def preparing(self, stage: str, share: float) -> None:
        """Show the stage on the first bar."""
        self._bars.update(self._run, description=one_line(stage, 60), completed=share)

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Bring bars and figures up to date, and print what happened above them."""
        for line, tone in (line for event in events for line in news(event, history)):
            self._console.print(Text(one_line(line, MOST_CHARACTERS), COLOURS[tone]))
        self._show_bars(history)
        if history.last is not None:
            self._figures.plain = figures(history, history.curve.smoothed)

    def _show_bars(self, history: RunState) -> None:
        if history.started is None:
            return
        last, left = history.last_step, history.remaining_s
        self._bars.update(
            self._run,
            description=f"step {whole(history.step)}" + (f" of {whole(last)}" if last else ""),
            total=float(last or 1), completed=float(history.step if last else 0),
            left=f"{clock(left)} left" if left is not None else "",
        )  # fmt: skip
        if history.last is not None and is_training(history):
            epochs = f" of {history.limits.max_epochs}" if history.limits.max_epochs else ""
            epoch = f"epoch {history.last.epoch + 1}{epochs}"
            self._bars.update(self._epoch, description=epoch, completed=history.epoch_fraction, visible=True)
        share = history.evaluating
        self._bars.update(self._eval, completed=share or 0.0, visible=share is not None)

    def close(self) -> None:
        """Stop redrawing, and show the cursor again."""
        self._live.stop()
