"""Text of the Runs tab: rows of the list, status rows, the legend of a comparison. Does not import Textual."""

from __future__ import annotations

import math
import os
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from gpt_core.config.settings import GROUP_RATES, LEARNING_RATE, Settings
from gpt_core.config.validation import fields
from gpt_core.run_files import METRICS
from gpt_core.training.events import EvalCompleted
from gpt_core.training.metrics import metric
from gpt_tui.charts.overlay import NamedRun, value_at
from gpt_tui.charts.series import Axis, nearest_row
from gpt_tui.new_run.fields import text_of
from gpt_tui.run_view.status import (
    LABEL_WIDTH,
    evaluation_rows,
    exchange_rows,
    origin_rows,
    progress_rows,
    ranks_rows,
    training_rows,
)
from gpt_tui.session.curve import STEP
from gpt_tui.session.outcome_text import why_ended
from gpt_tui.session.run_finder import RunInfo, RunStatus, is_same_folder
from gpt_tui.session.run_preview import shown_path
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.formatting import (
    PART_MARK,
    age,
    clock,
    counted,
    fixed,
    integer,
    learning_rate,
    metric_value,
    narrow,
    percent,
    short,
)
from gpt_tui.shared.rows import RULE, Row, Tone
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.spans import shortened_names

SYMBOLS = {
    RunStatus.LIVE: "▶", RunStatus.PAUSED: "‖", RunStatus.FINISHED: "✓", RunStatus.STOPPED: "■",
    RunStatus.DIVERGED: "✗", RunStatus.CRASHED: "✗", RunStatus.WAITING: "○", RunStatus.UNKNOWN: "?",
}  # fmt: skip
STATUS_TONES: dict[RunStatus, Tone] = {RunStatus.LIVE: "good", RunStatus.DIVERGED: "bad", RunStatus.CRASHED: "bad"}
LIVE_TEXT, CRASHED_TEXT = "live", "crashed or was killed: the log has no end"
UNKNOWN_TEXT = "the log does not grow; whether the process still runs cannot be checked from here"
THIS_APP = "this app"  # the process of the run
EMPTY = "(empty)"  # the value of a setting that is an empty text
# settings that do not change the result of a run
NOT_COMPARED = frozenset({
    "models_dir", "threads", "debug", "debug_every", "sample_prompt", "sample_tokens", "max_tokens", "max_steps",
    "minutes", "eval_every_steps", "eval_tokens", "save_every_steps", "save_every_minutes", "save_epoch_number",
})  # fmt: skip


class Column(NamedTuple):
    """Column of the list, shown if the list is at least `min_list_width` cells wide."""

    title: str
    width: int
    min_list_width: int = 0
    align_right: bool = False


MARK, NAME, STATUS = range(3)
COLUMNS = (
    Column("", 1), Column("run", 12), Column("status", 10), Column("model", 15, 110),
    Column("learning rate", 18, 134), Column("batch", 9, 146), Column("steps", 7, align_right=True),
    Column("step loss", 9, 74, align_right=True), Column("eval loss", 9, 86, align_right=True),
    Column("accuracy", 8, 96, align_right=True), Column("bits/byte", 9, align_right=True),
    Column("time", 8, 158, align_right=True), Column("tokens/s", 8, 170, align_right=True), Column("text", 16, 190),
    Column("updated", 8, 64),
)  # fmt: skip
TITLE = f"runs  (eval scores of the best evaluation; {PART_MARK}: of a part of the eval text)"
MIN_NAME, MAX_NAME = 12, 48


def columns_at(width: int) -> list[tuple[int, int]]:
    """Return index and width of each column of a list of `width` cells; the name takes the remaining width."""
    shown = [index for index, column in enumerate(COLUMNS) if width >= column.min_list_width]
    taken = sum(COLUMNS[index].width + 2 for index in shown if index != NAME) + 2
    name_width = min(MAX_NAME, max(MIN_NAME, width - taken))
    return [(index, name_width if index == NAME else COLUMNS[index].width) for index in shown]


def name_of(folder: Path) -> str:
    """Return a run's name: its folder, relative to the working folder if it is below it."""
    return "." if is_same_folder(folder, Path()) else shown_path(folder)


def is_own_run(run: RunInfo) -> bool:
    """Return True if this process trains the run."""
    return run.pid == os.getpid()


def cells(run: RunInfo, mark: int, now_s: float) -> tuple[str, ...]:
    """Return the cells of a run's row, one per column of COLUMNS."""
    status = THIS_APP if is_own_run(run) and run.status is RunStatus.LIVE else run.status.value
    started, settings, best = run.started, run.checkpoint.settings, run.best
    preset = "" if started is None else started.preset if started.kind == "train" else "self-test"
    model = f"{preset} {short(started.parameters)}".strip() if started else ""
    batch = f"{settings.batch_size} × {settings.seq_len}" if settings else ""
    return (
        str(mark) if mark else " ", name_of(run.folder), f"{SYMBOLS[run.status]} {status}", one_line(model),
        learning_rate(settings) if settings else "–", batch or (short(started.batch_tokens) if started else "–"),
        short(run.step) if run.step >= 100_000 else integer(run.step), narrow(run.loss), best.mark + narrow(best.loss),
        best.mark + percent(best.accuracy) if best.accuracy >= 0 else "–", best.mark + narrow(best.bits_per_byte),
        clock(run.elapsed_s), short(run.tokens_per_s),
        one_line(PurePath(started.train_file).name) if started else "–",
        age(max(0.0, now_s - run.updated_at)) if run.updated_at else "–",
    )  # fmt: skip


def log_rows(run: RunInfo, history: RunState, now_s: float, width: int) -> list[Row]:
    """Return the status rows of a run known by its log, for a panel of `width` cells."""
    rows = state_rows(run, history, width)
    started = history.started
    if started is None:
        return rows
    is_live = run.status.is_live
    value_width = width - LABEL_WIDTH
    rows += [row for row in progress_rows(history, value_width) if is_live or row.label != "time left"]
    rows += [RULE, *training_rows(history, value_width), RULE, *evaluation_rows(history, value_width)]
    rows.append(RULE)
    trained = f", {short(started.trained_parameters)} trained" if started.trained_parameters else ""
    rows.append(Row("model", f"{short(started.parameters)}, {one_line(started.preset) or 'custom'}{trained}"))
    rows += [*ranks_rows(history, value_width), *exchange_rows(history, value_width)]
    rows += origin_rows(history, value_width)
    if run.checkpoint.settings:
        rows.append(Row("vocabulary", integer(run.checkpoint.settings.vocab_size)))
    rows.append(Row("seed", str(started.seed)))
    rows.append(Row("updated", f"{age(max(0.0, now_s - run.updated_at))} ago"))
    return rows


def state_rows(run: RunInfo, history: RunState, width: int) -> list[Row]:
    """Return the rows on a run's status, its process, and why it ended."""
    tone = STATUS_TONES.get(run.status, "plain")
    status = LIVE_TEXT if run.status is RunStatus.LIVE else run.status.value
    rows = [Row("status", f"{SYMBOLS[run.status]} {status}", tone)]
    if (run.pid or run.place) and (run.status.is_live or run.status in (RunStatus.WAITING, RunStatus.UNKNOWN)):
        rows.append(Row("process", THIS_APP if is_own_run(run) else one_line(run.place) or f"PID {run.pid}"))
    why = why_ended(history.finished) if history.finished else ""
    if run.status is RunStatus.CRASHED:
        why = CRASHED_TEXT
    elif run.status is RunStatus.UNKNOWN:
        why = UNKNOWN_TEXT
    rows += [Row("", line, tone) for line in textwrap.wrap(one_line(why), max(10, width - LABEL_WIDTH))]
    if run.step and history.step < run.step - 1 and not run.status.is_live:
        rows.append(Row("reading", percent(min(1.0, history.step / run.step)), "dim"))
    return rows


# -- several runs


class LegendLine(NamedTuple):
    """A line of the legend: the run's number, name and value; a detail has the number 0."""

    number: int
    text: str
    value: str = ""


def legend(
    runs: Sequence[NamedRun], details: Sequence[str], metric_name: str, axis: Axis, x: float | None, *,
    width: int, height: int,
) -> list[LegendLine]:  # fmt: skip
    """Return number, name and value at `x` (None: at the end) of each run, with the details that fit."""
    shown = metric(metric_name)
    texts = []
    for run in runs:
        value, start = value_at(run, metric_name, axis, x), run.state.started
        of_part = shown.event is EvalCompleted and start is not None and start.eval_part_tokens > 0
        text = "–" if value is None else metric_value(shown, value, unit=False)
        texts.append(PART_MARK * (of_part and value is not None) + text)
    room = width - len("1 ⠒⠒ ") - len(" ") - max(map(len, texts), default=0)
    names = shortened_names([run.name for run in runs], room)
    lines = []
    for run, name, text, detail in zip(runs, names, texts, details, strict=True):
        lines.append(LegendLine(run.number, name, text))
        parts: list[str] = []
        room = height // len(runs) - 1
        for line in detail.split("\n"):
            if len(parts) < room:
                parts += textwrap.wrap(line, max(10, width - 2), max_lines=room - len(parts), placeholder=" …")
        lines += [LegendLine(0, part) for part in parts]
    return lines[:height]


def chart_title(name: str) -> str:
    """Return the title of a comparison chart: the metric, whether it is smoothed, and its unit."""
    shown = metric(name)
    prefix = "eval " if shown.event is EvalCompleted and not shown.label.startswith("eval ") else ""
    return f"{prefix}{shown.label}{' (smoothed)' * shown.smoothed}" + (f", {shown.unit}" if shown.unit else "")


def place_of(runs: Sequence[NamedRun], axis: Axis, x: float | None) -> str:
    """Return where the legend's values are read: `at step 1,200`, `at 1.2M tokens`, `at 3:20` or `at the end`."""
    if x is None:
        return "at the end"
    if axis == "time":
        return f"at {clock(x)}"
    if axis == "tokens":
        return f"at {short(x)} tokens"
    rows = [row for run in runs if (row := nearest_row(run.state, axis, x))]
    nearest = min((row[STEP] for row in rows), key=lambda step: abs(step - x), default=x)
    return f"at step {integer(int(nearest))}"


def details(runs: Sequence[RunInfo]) -> list[str]:
    """Return for each run its steps, its best score, and the settings that differ from the other runs."""
    result = []
    for run, differing in zip(runs, differences([run.checkpoint.settings for run in runs]), strict=True):
        parts = [f"{counted(run.step, 'step')}, {run.status.value}"]
        if math.isfinite(run.best.bits_per_byte):
            part = f" (of {short(run.best.part_tokens)} tokens)" if run.best.part_tokens else ""
            parts.append(f"best {fixed(run.best.bits_per_byte)} bits per byte{part}")
        result.append("\n".join([*parts, differing] if differing else parts))
    return result


def differences(settings: Sequence[Settings | None]) -> list[str]:
    """Return for each run the settings that differ, as `attn_lr 0.003, batch_size 16`; "" without a checkpoint."""
    known = [each for each in settings if each]
    omitted = GROUP_RATES if all(each.learning_rate is not None for each in known) else (LEARNING_RATE,)
    names = [
        name for name in fields()
        if name not in NOT_COMPARED and name not in omitted and len({getattr(each, name) for each in known}) > 1
    ]  # fmt: skip
    return [
        ", ".join(f"{name} {one_line(text_of(name, getattr(each, name)) or EMPTY, 40)}" for name in names)
        if each
        else ""
        for each in settings
    ]


def tokenizer_note(runs: Sequence[RunInfo]) -> str:
    """Return a warning if the losses of these runs are not comparable, else ""."""
    tokenizers = {run.checkpoint.tokenizer_sha256 for run in runs}
    if len(tokenizers) < 2:
        return ""
    if "" in tokenizers:
        return "a run has no checkpoint, so its tokenizer is unknown: if it differs, compare by bits per byte"
    return "the tokenizers differ: compare by bits per byte, not by loss or perplexity"


def default_metric(runs: Sequence[RunInfo]) -> str:
    """Return the default metric of a comparison: one that is comparable and available."""
    differ = len({run.checkpoint.tokenizer_sha256 for run in runs} - {""}) > 1
    return "bits_per_byte" if differ and all(math.isfinite(run.best.bits_per_byte) for run in runs) else "train_loss"


def marked_text(marked: int) -> str:
    """Return the number of marked runs; one alone needs a second."""
    return "" if not marked else "1 marked: mark another to compare" if marked == 1 else f"{marked} marked"


def empty_text(run: RunInfo | None, watched: Path | None) -> str:
    """Return the text shown while there is no curve yet, with the next step, and ids of keys in braces."""
    if run is None and watched is None:
        return (
            "No runs yet.\n\nEvery run writes a log, metrics.jsonl, next to its checkpoints. Runs under the models "
            "folder and under the folder gpt-tui was started in are listed here: replay them, compare them, or follow "
            "one that another process trains.\n\n{go.train}, then {train.start}, starts a run here.\n"
            "gpt-tui --train-only --models-dir models/other  starts one in another terminal."
        )
    folder = name_of(run.folder if run else watched or Path())
    if run and run.started is not None:
        return f"reading the log of {folder}…"
    if run and (run.pid or run.place):
        process = f"A process {one_line(run.place)}" if run.place else f"PID {run.pid}"
        return f"{process} is training in {folder}. Its charts appear here after the first step."
    return (
        f"Waiting for a run in {folder}: there is no {METRICS} in it yet.\n\nThe run is shown here after its first "
        f"step. gpt-tui --train-only --models-dir {shlex.quote(folder)}  starts one in another terminal."
    )
