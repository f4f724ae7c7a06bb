"""Reporters of a headless run: JSON Lines, plain lines, or progress bars on a terminal.

A reporter receives the new events and the state of the run after them.
"""

from __future__ import annotations

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
from gpt_tui.shared.formatting import estimated_duration, integer, percent
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.standard_streams import can_redraw

PLAIN_INTERVAL_S = 2.0
MAX_CHARACTERS = 10_000  # per line; the gradient norms of all tensors are long
COLORS = {"plain": "", "good": "green", "bad": "bold red", "dim": "dim"}


class Reporter(Protocol):
    """Interface of the reporters of one run."""

    def preparing(self, stage: str, share: float) -> None:
        """Show the progress of the setup before the first step; `share` is from 0 to 1."""

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Show new events and the run state after them. Raises BrokenPipeError if the output was closed."""

    def close(self) -> None:
        """End the report and restore the terminal."""


def reporter_for(as_json: bool, is_stopping: Callable[[], bool]) -> Reporter:
    """Return the reporter for the kind of standard output. `is_stopping` says whether a stop was requested."""
    if as_json:
        return JsonReporter()
    if can_redraw(sys.stdout):
        return BarsReporter(is_stopping)
    return PlainReporter()


class JsonReporter:
    """Prints the lines of metrics.jsonl on standard output."""

    def preparing(self, stage: str, share: float) -> None:
        """Do nothing: standard output holds events only."""

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Print the logged events."""
        lines = [to_json(event).decode() + "\n" for event in events if isinstance(event, LOGGED)]
        print(end="".join(lines), flush=True)

    def close(self) -> None:
        """Do nothing."""


class PlainReporter:
    """Prints one line per event, and every two seconds a line with the train loss (smoothed) and other figures."""

    def __init__(self) -> None:
        self._last_line_s = -PLAIN_INTERVAL_S
        self._has_new_steps = False
        self._stage, self._stage_line_s = "", 0.0

    def preparing(self, stage: str, share: float) -> None:
        """Print a line on standard error when a stage starts, and every two seconds during it."""
        now = time.monotonic()
        if stage != self._stage or now - self._stage_line_s >= PLAIN_INTERVAL_S:
            print(one_line(stage) + (f" {percent(share)}" if share else ""), file=sys.stderr, flush=True)
            self._stage, self._stage_line_s = stage, now

    def close(self) -> None:
        """Do nothing."""

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Print the events, preceded by the steps before them."""
        self._has_new_steps |= any(isinstance(event, StepCompleted) for event in events)
        lines = [line for event in events for line, _ in news(event, history)]
        if self._has_new_steps and (lines or time.monotonic() - self._last_line_s >= PLAIN_INTERVAL_S):
            self._print_steps(history)
        for line in lines:
            print(one_line(line, MAX_CHARACTERS), flush=True)

    def _print_steps(self, history: RunState) -> None:
        print(steps_line(history), flush=True)
        self._has_new_steps, self._last_line_s = False, time.monotonic()


class BarsReporter:
    """Draws bars for the run, its epoch and an evaluation, with figures below; events are printed above them."""

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
        self._eval = self._bars.add_task("evaluating", total=1.0, left="", visible=False)
        self._figures = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(get_renderable=self._drawn, console=self._console, refresh_per_second=8)
        self._live.start()

    def _drawn(self) -> Group:
        """Return what is redrawn, also during long steps."""
        parts: list[RenderableType] = [self._bars, self._figures]
        if self._is_stopping():
            parts.append(Text("stopping and saving; press Ctrl+C again to exit at once, without saving", no_wrap=True))
        return Group(*parts)

    def preparing(self, stage: str, share: float) -> None:
        """Show the stage on the first bar."""
        self._bars.update(self._run, description=one_line(stage, 60), completed=share)

    def show(self, events: Sequence[AnyEvent], history: RunState) -> None:
        """Update bars and figures, and print the events above them."""
        for line, tone in (line for event in events for line in news(event, history)):
            self._console.print(Text(one_line(line, MAX_CHARACTERS), COLORS[tone]))
        self._show_bars(history)
        if history.last is not None:
            self._figures.plain = figures(history)

    def _show_bars(self, history: RunState) -> None:
        if history.started is None:
            return
        last, left = history.last_step, history.remaining_s
        self._bars.update(
            self._run,
            description=f"step {integer(history.step)}" + (f" of {integer(last)}" if last else ""),
            completed=history.progress or 0.0,
            left=f"{estimated_duration(left)} left" if left is not None else "",
        )  # fmt: skip
        if history.last is not None and is_training(history):
            epochs = f" of {integer(history.limits.max_epochs)}" if history.limits.max_epochs else ""
            epoch = f"epoch {integer(history.last.epoch + 1)}{epochs}"
            self._bars.update(self._epoch, description=epoch, completed=history.epoch_fraction, visible=True)
        share = history.evaluating
        self._bars.update(self._eval, completed=share or 0.0, visible=share is not None)

    def close(self) -> None:
        """Stop redrawing and show the cursor."""
        self._live.stop()
