"""Text of the start screen beside the preview: estimate, recent runs, newest sample, explanation. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.cells import set_cell_size

from gpt_core.bench.estimate import estimate_run_length
from gpt_tui.new_run.estimate import RunEstimate, memory_here, memory_text, step_time
from gpt_tui.session.recent_runs import RecentRuns
from gpt_tui.session.run_finder import RunInfo
from gpt_tui.session.run_preview import shown_path
from gpt_tui.shared.formatting import PART_MARK, age, estimated_duration, integer, narrow, short
from gpt_tui.shared.rows import Tone
from gpt_tui.shared.sanitize import one_line, printable
from gpt_tui.shared.spans import shortened_names

DROPPED_FIRST = ("shape", "batch", "memory", "ranks", "eval text", "why")
"""Rows of the preview that are left out of a low terminal, least important first."""
MAX_SAMPLE_LINES = 12
STATUS_WIDTH, STEPS_WIDTH, BITS_WIDTH, AGE_WIDTH = 10, 9, 9, 12

EXPLANATION = (
    ("loss", "How wrong the model is when it predicts the next piece of text. It starts where the model only guesses, "
     "and falls as the model learns."),
    ("samples", "What the model writes after a fixed beginning: noise at first, then words, then sentences."),
    ("{chat}  chat", "The model continues text that you type, also while it trains."),
    ("{stop}  stop", "Saves the run. Resume it at any time, also after closing the program."),
)  # fmt: skip
"""Overview of a first run, with the keys of actions in braces"""


class Panel(NamedTuple):
    """Panel beside the preview: its title, and lines with their emphasis."""

    title: str
    lines: list[tuple[str, Tone]]


def fitted_rows(rows: Sequence[tuple[str, str]], width: int, height: int) -> list[tuple[str, list[str]]]:
    """Return the rows of a preview with the lines of their texts, as many as fit.

    Where there is no room, the least important rows are left out, and then all lines but the first one of a row, except
    of a problem.

    Args:
        rows: Labels and texts.
        width: Cells of a line.
        height: Number of lines.
    """
    wrapped = [(label, textwrap.wrap(one_line(text), width)) for label, text in rows]
    for label in DROPPED_FIRST:
        if sum(len(lines) for _, lines in wrapped) > height:
            wrapped = [row for row in wrapped if row[0] != label]
    if sum(len(lines) for _, lines in wrapped) > height:
        kept = dict(wrapped)
        wrapped = [
            (label, textwrap.wrap(one_line(text), width, max_lines=None if label == "problem" else 1, placeholder=" …"))
            for label, text in rows
            if label in kept
        ]
    return wrapped


def with_estimate(rows: Sequence[tuple[str, str]], estimate: RunEstimate) -> list[tuple[str, str]]:
    """Return the rows of a preview with the memory of the whole run and its time on this computer."""
    settings = estimate.settings
    if settings is None:
        return list(rows)
    memory = memory_here(settings, estimate.threads, estimate.texts, estimate.hosts)
    known = {"memory": memory_text(memory, estimate.free_bytes).removeprefix("about ")}
    found = [(label, known.get(label, text)) for label, text in rows]
    at = next((index for index, (label, _) in enumerate(found) if label == "memory"), len(found))
    return [*found[:at], ("time", time_text(estimate)), *found[at:]]


def time_text(estimate: RunEstimate) -> str:
    """Return how long the run takes: `up to 20 min on this computer, 52.3 ms per step`."""
    if estimate.time is None:
        return one_line(estimate.time_problem)
    where = "by rank 0 alone" if estimate.hosts else "on this computer"
    per_step = f"{step_time(estimate.time.step_s)} per step"
    if estimate.settings is None or estimate.texts is None:
        return f"{per_step} {where}"
    length = estimate_run_length(estimate.settings, estimate.texts, estimate.time)
    return f"up to {estimated_duration(length.max_s)} {where}, {per_step}"


def runs_panel(recent: RecentRuns, keys: Mapping[str, str], now_s: float, width: int) -> Panel:
    """Return the recent runs; where there are none, the overview of a first run."""
    if recent.runs:
        names = shortened_names([shown_path(run.folder) for run in recent.runs], name_width(width))
        lines = [
            (run_line(run, name, now_s, width), run_tone(run)) for run, name in zip(recent.runs, names, strict=True)
        ]
        if any(run.best.part_tokens for run in recent.runs):
            lines.append((f"{PART_MARK}: of a part of the eval text", "dim"))
        return Panel("recent runs", [(heading(width), "dim"), *lines])
    explained: list[tuple[str, Tone]] = []
    for label, text in EXPLANATION:
        explained += [(label.format(**keys), "plain"), (text, "dim"), ("", "dim")]
    return Panel("what you will see", explained[:-1])


def heading(width: int) -> str:
    """Return the names of the columns of `run_line`."""
    return columns("run", "status", "steps", "bits/byte", "updated", width)


def run_line(run: RunInfo, name: str, now_s: float, width: int) -> str:
    """Return name, status, steps, best score and age of a run."""
    steps = short(run.step) if run.step >= 100_000 else integer(run.step)
    bits = run.best.mark + narrow(run.best.bits_per_byte) if math.isfinite(run.best.bits_per_byte) else "–"
    updated = f"{age(max(0.0, now_s - run.updated_at))} ago" if run.updated_at else "–"
    return columns(name, run.status.value, steps, bits, updated, width)


def columns(name: str, status: str, steps: str, bits: str, updated: str, width: int) -> str:
    """Return a line of the list of runs."""
    figures = f"{status:<{STATUS_WIDTH}} {steps:>{STEPS_WIDTH}} {bits:>{BITS_WIDTH}} {updated:>{AGE_WIDTH}}"
    return f"{set_cell_size(name, name_width(width))} {figures}"


def name_width(width: int) -> int:
    """Return the width of a run's name, which takes what the other columns leave."""
    return max(8, width - STATUS_WIDTH - STEPS_WIDTH - BITS_WIDTH - AGE_WIDTH - 4)


def run_tone(run: RunInfo) -> Tone:
    """Return the emphasis of a run: one in training stands out."""
    return "good" if run.pid is not None else "plain"


def sample_panel(recent: RecentRuns) -> Panel | None:
    """Return the newest sample; None without one."""
    sample, folder = recent.sample, recent.sample_folder
    if sample is None or folder is None:
        return None
    where: tuple[str, Tone] = (f"{shown_path(folder)}, step {integer(sample.step)}", "dim")
    text = printable(sample.prompt + sample.text).splitlines()
    return Panel("newest sample", [where, *((line, "plain") for line in text[:MAX_SAMPLE_LINES])])
