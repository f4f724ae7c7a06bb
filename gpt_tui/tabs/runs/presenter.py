"""The words of the Runs tab: a run as a row of the list and as status rows, several as a legend. Pure."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpt_core.checkpoints.replacement import METRICS
from gpt_core.config.settings import Settings
from gpt_tui.charts.overlay import NamedRun, Quantity, value_at
from gpt_tui.charts.series import Axis, nearest_row
from gpt_tui.run_view.status import RULE, Row, evaluation_rows, progress_rows
from gpt_tui.session.curve import STEP
from gpt_tui.session.run_state import RunState, Tone, why_ended
from gpt_tui.shared.formatting import age, clock, fixed, narrow, nats, percent, perplexity, rate, short, whole
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.runs.run_finder import RunLog, RunStatus

SYMBOLS = {
    RunStatus.LIVE: "▶", RunStatus.FINISHED: "✓", RunStatus.STOPPED: "■", RunStatus.DIVERGED: "✗", RunStatus.ENDED: "✗",
    RunStatus.WAITING: "○",
}  # fmt: skip
STATE_TONES: dict[RunStatus, Tone] = {RunStatus.LIVE: "good", RunStatus.DIVERGED: "bad", RunStatus.ENDED: "bad"}
LIVE_WORDS, DIED_WORDS = "following live", "ended without a last line: it died or was killed"
THIS_ONE = "this one"  # the run of this very app
LABEL_WIDTH = 10
# settings that differ from run to run without making another run of it
NOT_TOLD = frozenset({
    "models_dir", "threads", "debug", "debug_every", "sample_prompt", "sample_tokens", "max_tokens", "max_steps",
    "eval_every_steps", "save_every_steps", "save_every_minutes", "save_epoch_number",
})  # fmt: skip


class Column(NamedTuple):
    """A column of the list; `least` is the width of the list, in cells, from which on it is there."""

    title: str
    width: int
    least: int = 0
    right: bool = False


MARK, NAME, STATE = range(3)
COLUMNS = (
    Column("", 1), Column("run", 12), Column("state", 10), Column("model", 13, 96), Column("steps", 7, right=True),
    Column("loss", 6, 74, right=True), Column("bits/B", 6, right=True), Column("written", 8, 64),
)  # fmt: skip
LEAST_NAME, MOST_NAME = 12, 48


def columns_at(width: int) -> list[tuple[int, int]]:
    """Which columns a list of so many cells has, and how wide each is: the name takes what the others leave."""
    shown = [index for index, column in enumerate(COLUMNS) if width >= column.least]
    taken = sum(COLUMNS[index].width + 2 for index in shown if index != NAME) + 2
    name_width = min(MOST_NAME, max(LEAST_NAME, width - taken))
    return [(index, name_width if index == NAME else COLUMNS[index].width) for index in shown]


def name_of(folder: Path) -> str:
    """A run's name: its folder, from the working folder on where it lies below it."""
    absolute, here = str(folder.absolute()), f"{Path.cwd()}/"
    return one_line(absolute.removeprefix(here)) if absolute != here[:-1] else "."


def shortened(name: str, width: int) -> str:
    """The end of a name that is too long: that is where runs differ."""
    return name if len(name) <= width else "…" + name[len(name) - width + 1 :]


def is_this_one(run: RunLog) -> bool:
    """Whether it is this very process that trains there."""
    return run.holder == os.getpid()


def cells(run: RunLog, mark: int, now_s: float) -> tuple[str, ...]:
    """The run in a row of the list, one text for each of COLUMNS."""
    words = THIS_ONE if is_this_one(run) and run.state is RunStatus.LIVE else run.state.value
    started = run.started
    what = "" if started is None else started.preset if started.kind == "train" else "overfit"
    model = f"{what} {short(started.parameters)}".strip() if started else ""
    return (
        str(mark) if mark else " ", name_of(run.folder), f"{SYMBOLS[run.state]} {words}", one_line(model),
        short(run.step) if run.step >= 100_000 else whole(run.step), narrow(run.loss),
        narrow(run.best_bits),
        age(max(0.0, now_s - run.written_at)) if run.written_at else "–",
    )  # fmt: skip


def log_rows(run: RunLog, history: RunState, now_s: float, width: int) -> list[Row]:
    """The status of a run that is known by its log alone, for a panel of so many cells."""
    rows = state_rows(run, history, width)
    started, last = history.started, history.last
    if started is None:
        return rows
    is_live = run.state is RunStatus.LIVE
    rows += [row for row in progress_rows(history, max(6, width - 17)) if is_live or row.label != "left"]
    if last is not None:
        rows.append(Row("tokens", short(last.tokens)))
        rows.append(Row("speed", f"{short(last.tokens_per_s)} tokens/s"))
        rows.append(RULE)
        rows.append(Row("loss", nats(last.loss), "plain" if math.isfinite(last.loss) else "bad"))
        rows.append(Row("smoothed", f"{nats(history.curve.smoothed)}  ppl {perplexity(history.smoothed_perplexity)}"))
        rows.append(Row("rate", rate(last.lr)))
    rows.append(RULE)
    rows += evaluation_rows(history, width >= 34)
    rows.append(RULE)
    rows.append(Row("model", f"{short(started.parameters)}, {one_line(started.preset) or 'own shape'}"))
    if run.kept.settings:
        rows.append(Row("pieces", whole(run.kept.settings.vocab_size)))
    rows.append(Row("seed", str(started.seed)))
    rows.append(Row("written", f"{age(max(0.0, now_s - run.written_at))} ago"))
    return rows


def state_rows(run: RunLog, history: RunState, width: int) -> list[Row]:
    """What the run is at, who runs it, and how it ended, in words."""
    tone = STATE_TONES.get(run.state, "plain")
    words = LIVE_WORDS if run.state is RunStatus.LIVE else run.state.value
    rows = [Row("state", f"{SYMBOLS[run.state]} {words}", tone)]
    if run.holder and run.state in (RunStatus.LIVE, RunStatus.WAITING):
        rows.append(Row("by", "this app" if is_this_one(run) else f"process {run.holder}"))
    why = why_ended(history.finished) if history.finished else ""
    if run.state is RunStatus.ENDED:
        why = DIED_WORDS
    rows += [Row("", line, tone) for line in textwrap.wrap(one_line(why), max(10, width - LABEL_WIDTH))]
    if run.step and history.step < run.step - 1 and run.state is not RunStatus.LIVE:
        rows.append(Row("reading", percent(min(1.0, history.step / run.step)), "dim"))
    return rows


# -- several runs


class LegendLine(NamedTuple):
    """A line of the legend: what the run's number stands for, and its value; number 0 is a line without one."""

    number: int
    text: str
    value: str = ""


def legend(
    runs: Sequence[NamedRun], details: Sequence[str], quantity: Quantity, axis: Axis, x: float | None, *,
    width: int, height: int,
) -> list[LegendLine]:  # fmt: skip
    """What each number means and its value at `x` (None: at its end), with as many details as there is room for."""
    lines = []
    for run, detail in zip(runs, details, strict=True):
        value = value_at(run, quantity, axis, x)
        written = "–" if value is None else perplexity(value) if quantity == "perplexity" else nats(value)
        lines.append(LegendLine(run.number, shortened(run.name, width - len(written) - 5), written))
        wrapped = [part for line in detail.split("\n") for part in textwrap.wrap(line, max(10, width - 2))]
        if height >= len(runs) * 2:
            most = max(1, height // len(runs) - 1)
            lines += [LegendLine(0, part) for part in wrapped[:most]]
    return lines[:height]


def place_of(runs: Sequence[NamedRun], axis: Axis, x: float | None) -> str:
    """What the legend's values are of: `step 1,200`, `1.2M tokens`, `3:20`, or the runs' ends."""
    if x is None:
        return "at the end"
    if axis == "time":
        return f"at {clock(x)}"
    if axis == "tokens":
        return f"at {short(x)} tokens"
    rows = [row for run in runs if (row := nearest_row(run.history, axis, x))]
    nearest = min((row[STEP] for row in rows), key=lambda step: abs(step - x), default=x)
    return f"at step {whole(int(nearest))}"


def details(runs: Sequence[RunLog]) -> list[str]:
    """For each run how far it came, its best score, and the settings by which it differs from the others."""
    told = []
    for run, differing in zip(runs, differences([run.kept.settings for run in runs]), strict=True):
        parts = [f"{whole(run.step)} steps, {run.state.value}"]
        if math.isfinite(run.best_bits):
            parts.append(f"best {fixed(run.best_bits)} bits a byte")
        told.append("\n".join([*parts, differing] if differing else parts))
    return told


def differences(settings: Sequence[Settings | None]) -> list[str]:
    """For each run the settings in which the runs differ, `attn_lr 0.003, batch_size 16`; "" where nothing is known."""
    known = [msgspec.structs.asdict(each) for each in settings if each]
    names = [
        name for name in (known[0] if known else {})
        if name not in NOT_TOLD and any(each[name] != known[0][name] for each in known)
    ]  # fmt: skip
    return [
        ", ".join(f"{name} {one_line(str(getattr(each, name)), 40)}" for name in names) if each else ""
        for each in settings
    ]


def vocabulary_note(runs: Sequence[RunLog]) -> str:
    """Whether the losses of these runs may be compared, in words; "" where they may."""
    vocabularies = {run.kept.vocabulary for run in runs}
    if len(vocabularies) < 2:
        return ""
    if "" in vocabularies:
        return "a run without a checkpoint: if its vocabulary is another one, only bits a byte compare"
    return "the vocabularies differ: loss and perplexity do not compare, bits a byte do"


def best_quantity(runs: Sequence[RunLog]) -> Quantity:
    """What to compare these runs by, unless the user has chosen: what is comparable and there."""
    differ = len({run.kept.vocabulary for run in runs} - {""}) > 1
    return "bits a byte" if differ and all(math.isfinite(run.best_bits) for run in runs) else "loss"


def marked_words(marked: int) -> str:
    """How many runs are marked, and what one alone waits for."""
    return "" if not marked else "1 marked: mark another to lay it over" if marked == 1 else f"{marked} marked"


def empty_words(run: RunLog | None, watched: Path | None) -> str:
    """What the tab says where there is no curve yet, and what to do next."""
    if run is None and watched is None:
        return (
            "No runs yet.\n\nEach run leaves a log, metrics.jsonl, beside its checkpoints. Those under the models "
            "folder and under the folder that gpt-tui was started in are listed here: to look at again, to lay over "
            "each other, and to follow while another terminal trains them.\n\nF2, then s, starts a run here.\n"
            "gpt-tui --train-only --models-dir models/other  starts one in another terminal."
        )
    folder = name_of(run.folder if run else watched or Path())
    if run and run.holder:
        return f"Process {run.holder} trains in {folder}: its first step will be shown here."
    return (
        f"Waiting for a run in {folder}: there is no {METRICS} in it yet.\n\nAs soon as a run logs there, it is shown "
        f"here. gpt-tui --train-only --models-dir {folder}  starts one in another terminal."
    )
