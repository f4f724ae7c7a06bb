"""How a headless run is shown: as JSON Lines, as plain lines, or with progress bars on a terminal.

A reporter is given the events that came since the last time, and the run's history up to them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from gpt_core.training.events import LOGGED, AnyEvent, RunFinished, RunStarted, StepCompleted, to_json
from gpt_tui.plain_text import one_line, printable
from gpt_tui.quantities import clock, nats, percent, perplexity, rate, whole
from gpt_tui.run_history import LogLine, RunHistory, safe_exp

PLAIN_INTERVAL_S = 2.0
COLOURS = {"plain": "", "good": "green", "bad": "bold red", "dim": "dim"}


class Reporter(Protocol):
    """Shows one run."""

    def preparing(self, stage: str, share: float) -> None:
        """The run is not ready yet: what is being done, and how much of it is (0 to 1)."""

    def show(self, events: Sequence[AnyEvent], history: RunHistory) -> None:
        """These events came, and `history` is the run with them. Raises BrokenPipeError when nobody reads any more."""

    def close(self) -> None:
        """The run is over; leave the terminal as it was."""


def reporter_for(as_json: bool) -> Reporter:
    """The reporter that suits where standard output goes."""
    if as_json:
        return JsonReporter()
    if sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return BarsReporter()
    return PlainReporter()


class JsonReporter:
    """The lines of metrics.jsonl on standard output, as they are written there."""

    def preparing(self, stage: str, share: float) -> None:
        """Standard output is for events only, and whoever reads them needs no news of the preparation."""

    def show(self, events: Sequence[AnyEvent], history: RunHistory) -> None:
        """Print the events that are logged."""
        lines = [to_json(event).decode() + "\n" for event in events if isinstance(event, LOGGED)]
        print(end="".join(lines), flush=True)

    def close(self) -> None:
        """Nothing was changed."""


class NewLines:
    """Which of a history's log lines were not given yet."""

    def __init__(self) -> None:
        self._given = 0

    def of(self, history: RunHistory) -> tuple[LogLine, ...]:
        """The log lines that came since the last call."""
        new = min(history.logged - self._given, len(history.log))
        self._given = history.logged
        return history.log[len(history.log) - new :]


class PlainReporter:
    """One line for what happens, and one every two seconds for the steps: their mean loss since the line before."""

    def __init__(self) -> None:
        self._new_lines = NewLines()
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

    def show(self, events: Sequence[AnyEvent], history: RunHistory) -> None:
        """Print what happened; the steps before it come first."""
        self._losses += [event.loss for event in events if isinstance(event, StepCompleted)]
        lines = self._new_lines.of(history)
        if self._losses and (lines or time.monotonic() - self._last_line_s >= PLAIN_INTERVAL_S):
            self._print_steps(history)
        for line in lines:
            print(one_line(line.text), flush=True)
        for event in events:
            if isinstance(event, RunStarted):
                print(started_details(event), flush=True)

    def _print_steps(self, history: RunHistory) -> None:
        mean = sum(self._losses) / len(self._losses)
        print(steps_line(history, mean), flush=True)
        self._losses, self._last_line_s = [], time.monotonic()


class BarsReporter:
    """Bars for the run, its epoch and an evaluation, figures below them, and what happens printed above."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._new_lines = NewLines()
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
        self._live = Live(Group(self._bars, self._figures), console=self._console, refresh_per_second=8)
        self._live.start()

    def preparing(self, stage: str, share: float) -> None:
        """Show the stage on the first bar."""
        self._bars.update(self._run, description=one_line(stage, 60), completed=share)

    def show(self, events: Sequence[AnyEvent], history: RunHistory) -> None:
        """Bring bars and figures up to date, and print what happened above them."""
        for line in self._new_lines.of(history):
            self._console.print(Text(printable(line.text), COLOURS[line.tone]))
        for event in events:
            if isinstance(event, RunStarted):
                self._console.print(Text(started_details(event), "dim"))
        self._show_bars(history)
        if history.last is not None:
            self._figures.plain = figures(history, history.curve.smoothed)
        if events and isinstance(events[-1], RunFinished):
            self._live.refresh()

    def _show_bars(self, history: RunHistory) -> None:
        if history.started is None:
            return
        last, left = history.last_step, history.remaining_s
        self._bars.update(
            self._run,
            description=f"step {whole(history.step)}" + (f" of {whole(last)}" if last else ""),
            total=float(last or 1), completed=float(history.step if last else 0),
            left=f"{clock(left)} left" if left is not None else "",
        )  # fmt: skip
        is_training = history.started.kind == "train"
        if history.last is not None and is_training:
            epochs = f" of {history.limits.max_epochs}" if history.limits.max_epochs else ""
            epoch = f"epoch {history.last.epoch + 1}{epochs}"
            self._bars.update(self._epoch, description=epoch, completed=history.epoch_share, visible=True)
        share = history.evaluating
        self._bars.update(self._eval, completed=share or 0.0, visible=share is not None)

    def close(self) -> None:
        """Stop redrawing, and show the cursor again."""
        self._live.stop()


def started_details(event: RunStarted) -> str:
    """A line that says what is trained on what, to follow the history's own line about the start."""
    scored = f", scored on {event.eval_file}" if event.eval_file else ""
    epoch = f"{whole(event.steps_per_epoch)} steps an epoch, " if event.steps_per_epoch else ""
    return one_line(
        f"text {event.train_file}{scored}; {epoch}{whole(event.batch_tokens)} tokens a step; "
        f"{event.threads} thread{'s' if event.threads != 1 else ''}, seed {event.seed}"
    )


def figures(history: RunHistory, loss: float) -> str:
    """The run's numbers in one line. Tiny overfit calls its loss tokLoss, as the Go program did."""
    last = history.last
    if last is None:
        return ""
    name = "loss" if history.started is None or history.started.kind == "train" else "tokLoss"
    return (
        f"{name} {nats(loss)}  ppl {perplexity(safe_exp(loss))}  lr {rate(last.lr)}  norm {last.grad_norm:.2f}  "
        f"{whole(round(last.tokens_per_s))} tokens/s  {clock(last.elapsed_s)}"
    )


def steps_line(history: RunHistory, mean_loss: float) -> str:
    """The plain line about the steps up to now."""
    is_training = history.started is not None and history.started.kind == "train"
    epoch = f"  epoch {history.last.epoch + 1}" if history.last is not None and is_training else ""
    of = f"/{whole(history.last_step)}" if history.last_step else ""
    left = f"  {clock(history.remaining_s)} left" if history.remaining_s else ""
    return f"step {whole(history.step)}{of}{epoch}  {figures(history, mean_loss)}{left}"
