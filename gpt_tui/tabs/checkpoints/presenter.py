"""Text of the Checkpoints tab: the table's rows, a file's details, refusals and questions. Does not import Textual."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from rich.cells import cell_len, set_cell_size

from gpt_core.checkpoints.store import Fault, UnusableCheckpoint, chat_candidates, resume_candidates
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.config.validation import names_as_text
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_core.text.synthetic import is_synthetic
from gpt_tui.session.outcome_text import ENDINGS
from gpt_tui.session.run_finder import is_same_folder
from gpt_tui.session.run_preview import shown_path
from gpt_tui.shared.formatting import (
    PART_MARK,
    age,
    counted,
    duration,
    integer,
    learning_rate,
    nats,
    percent,
    scores_text,
    short,
    size,
)
from gpt_tui.shared.rows import Tone
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.spans import shortened_names
from gpt_tui.tabs.checkpoints.files import CheckpointFile, FolderContents, Stamp

Use = Literal["chat with", "resume from", "fine-tune", "export"]

GAP = "  "
MIN_NAME, MAX_NAME = 11, 40  # 11: ckpt_latest
NONE = "–"  # in place of a score that was not measured
DIGEST_CHARACTERS = 12  # of a hash that are shown


# -- verification


class Verification(NamedTuple):
    """Result of verifying a file's checksums, or its `progress` (a fraction); `error` is why it cannot be used."""

    state: Literal["pending", "running", "valid"] | Fault = "pending"
    progress: float = 0.0
    error: str = ""

    @property
    def is_refused(self) -> bool:
        """True for a file that cannot be used."""
        return self.state in get_args(Fault)


STATUSES: Mapping[str, tuple[str, Tone]] = {
    "pending": ("· pending", "dim"), "valid": ("✓ OK", "good"), "foreign": ("✗ not gpt-tui", "dim"),
    "damaged": ("✗ damaged", "bad"), "unusable": ("✗ unusable", "bad"),
}  # fmt: skip
Verifications = Mapping[Stamp, Verification]


def verification_result(found: UnusableCheckpoint | str | None) -> Verification:
    """Return the end of a verification: None for a valid file, what is wrong with it, or an unexpected error."""
    if isinstance(found, UnusableCheckpoint):
        return Verification(found.fault, error=found.error)
    return Verification("unusable", error=found) if found else Verification("valid")


def verification_of(file: CheckpointFile, known: Verifications) -> Verification:
    """Return the verification of a file; one that is unusable by its header needs no further check."""
    if not isinstance(file.found, CheckpointInfo):
        return verification_result(file.found)
    return known.get(file.stamp, Verification())


def next_pending(files: Sequence[CheckpointFile], known: Verifications) -> CheckpointFile | None:
    """Return the first file that is not yet verified."""
    return next((file for file in files if verification_of(file, known).state in ("pending", "running")), None)


# -- the table


class TableRow(NamedTuple):
    """A row: the text of all columns but the last, then the status and its tone."""

    text: str
    status: str
    tone: Tone


class Table(NamedTuple):
    """The column titles and the rows, aligned."""

    titles: str
    rows: tuple[TableRow, ...]


class _Column(NamedTuple):
    title: str
    cells: list[str]
    rank: int  # the column of the lowest rank is dropped first
    align_right: bool = False

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.title, *self.cells)))


def status_cell(verification: Verification) -> tuple[str, Tone]:
    """Return a file's status, as a symbol and a word, and its tone."""
    if verification.state == "running":
        return f"… {int(verification.progress * 100)}%", "plain"
    return STATUSES[verification.state]


def train_loss(info: CheckpointInfo) -> str:
    """Return the smoothed train loss at the step, a dash where the file has none."""
    return NONE if info.state.train_loss is None else nats(info.state.train_loss)


def eval_loss(info: CheckpointInfo) -> str:
    """Return the eval loss of the step, a dash where it was not evaluated."""
    return part_mark(info) + nats(info.scores.loss) if info.scores else NONE


def eval_accuracy(info: CheckpointInfo) -> str:
    """Return the eval accuracy of the step, a dash where it was not evaluated."""
    return part_mark(info) + percent(info.scores.accuracy) if info.scores else NONE


def part_mark(info: CheckpointInfo) -> str:
    """Return the mark of scores of a part of the eval text, "" for all of it."""
    return PART_MARK if info.state.eval_windows else ""


def best_so_far(info: CheckpointInfo) -> str:
    """Return the best score so far by the run's metric and its step, "" before the first evaluation."""
    state = info.state
    if state.best_accuracy < 0:
        return ""
    score = f"accuracy so far {percent(state.best_accuracy)}"
    if info.settings.best_metric == "loss" and state.best_loss is not None:
        score = f"eval loss so far {nats(state.best_loss)}"
    return f"best {score} at step {integer(state.best_step)}"


def shape_text(shape: ModelShape) -> str:
    """Return layers, width and parameters of a model: `4 × 128, 1.06M`."""
    return f"{shape.layers} × {shape.d_model}, {short(parameter_count(shape))}"


def table(files: Sequence[CheckpointFile], known: Verifications, now_s: float, width: int) -> Table:
    """Return the rows in the order of `files`, at most `width` cells wide where possible; names are cut last."""
    statuses = [status_cell(verification_of(file, known)) for file in files]
    name = _Column("name", [one_line(file.name) for file in files], 9)
    last = _Column("status", [text for text, _ in statuses], 9)
    room = width - len(GAP) - max(last.width, len("✗ damaged"))
    columns = _that_fit(_inner_columns(files, now_s), room - max(MIN_NAME, min(MAX_NAME, name.width)))
    taken = sum(column.width + len(GAP) for column in columns)
    name_width = max(MIN_NAME, min(name.width, room - taken))
    names = shortened_names(name.cells, name_width)
    titles = _joined(name.title, name_width, columns, None)
    rows = [
        TableRow(_joined(text, name_width, columns, index) + GAP, status, tone)
        for index, (text, (status, tone)) in enumerate(zip(names, statuses, strict=True))
    ]
    return Table(titles + GAP + last.title, tuple(rows))


def _inner_columns(files: Sequence[CheckpointFile], now_s: float) -> list[_Column]:
    """Return the columns between the name and the status."""

    def cells(text: Callable[[CheckpointInfo], str]) -> list[str]:
        return [text(file.info) if file.info else "" for file in files]

    return [
        _Column("kind", [file.found.kind for file in files], 2),
        _Column("step", cells(lambda info: integer(info.step)), 8, True),
        _Column("train loss", cells(train_loss), 4, True),
        _Column("eval loss", cells(eval_loss), 6, True),
        _Column("accuracy", cells(eval_accuracy), 5, True),
        _Column("shape", cells(lambda info: shape_text(info.settings.shape)), 1),
        _Column("size", [size(file.stamp.size) for file in files], 3, True),
        _Column("age", [age(max(0.0, now_s - file.saved_s)) for file in files], 7, True),
    ]


def _that_fit(columns: list[_Column], room: int) -> list[_Column]:
    while columns and sum(column.width + len(GAP) for column in columns) > room:
        dropped = min(columns, key=lambda column: column.rank)
        columns = [column for column in columns if column is not dropped]
    return columns


def _joined(name: str, name_width: int, columns: list[_Column], index: int | None) -> str:
    """Join a line without its last column: the titles if `index` is None, else that row."""
    parts = [set_cell_size(name, name_width)]
    for column in columns:
        text = column.title if index is None else column.cells[index]
        parts.append(text.rjust(column.width) if column.align_right else text.ljust(column.width))
    return GAP.join(parts)


def summary_text(contents: FolderContents, known: Verifications, exporting: tuple[str, float] | None = None) -> str:
    """Return number and size of the files, the number of unusable ones, and the first problem of reading.

    An export in progress comes first: `exporting` is the name of its file, and the fraction that is done.
    """
    count = len(contents.files)
    parts = [f"{counted(count, 'file')}, {size(sum(file.stamp.size for file in contents.files))}"]
    unusable = sum(verification_of(file, known).is_refused for file in contents.files)
    parts += [f"{unusable} unusable"] if unusable else []
    export = [f"exporting {one_line(exporting[0])} {int(exporting[1] * 100)}%"] if exporting else []
    return " · ".join([*export, *parts, *map(one_line, contents.problems[:1])])


def empty_text(models_dir: str, problems: Sequence[str], *, running: bool) -> str:
    """Return the text shown in place of an empty table, with ids of keys in braces."""
    if problems:
        return f"✗ {one_line(problems[0])}\n\nMake it readable, or set models_dir to another folder."
    title = f"There are no checkpoints in {one_line(models_dir)}/ yet."
    if running:
        save = "{go.train}, then {train.save}"
        return f"{title}\n\nThe current run saves checkpoints automatically. To save one now: {save}."
    start = "{go.train}, then {train.start}"
    return (
        f"{title}\n\nTo train a model: {start}. A run saves a checkpoint every few minutes, at each "
        "better score and when it stops."
    )


# -- one file


def details(file: CheckpointFile, verification: Verification, now_s: float) -> list[tuple[str, str]]:
    """Return the details of a file as (label, text), most important first."""
    saved = time.strftime("%d %b %Y, %H:%M", time.localtime(file.saved_s))
    rows = [
        ("file", f"{shown_path(file.stamp.path)}, {size(file.stamp.size)}"),
        ("status", status_text(file, verification)),
    ]
    if file.info:
        about = run_rows(file.info) if file.info.corpus_sha256 else imported_rows(file.info)
        rows += [("use", use_text(file.info, verification)), *about]
    rows.insert(3, ("saved", f"{saved}, {age(max(0.0, now_s - file.saved_s))} ago"))
    return rows


def run_rows(info: CheckpointInfo) -> list[tuple[str, str]]:
    """Return what the header states about the run and its model."""
    settings, state, shape = info.settings, info.state, info.settings.shape
    trained = [f"step {integer(info.step)}", counted(info.epoch, "epoch")]
    trained += [f"{short(state.tokens)} tokens", duration(state.elapsed_s), ENDINGS.get(state.finished, state.finished)]
    batch = f"batch {settings.batch_size} × {settings.seq_len}, learning rate {learning_rate(settings)}"
    return [
        ("trained", ", ".join(part for part in trained if part)),
        ("scores", scores_of(info)),
        ("model", f"{info.preset or 'custom'}, {integer(parameter_count(shape))} parameters: "
                  f"{counted(shape.layers, 'layer')}, width {shape.d_model}, {counted(shape.num_heads, 'head')}, "
                  f"context {shape.seq_len}"),
        *layer_rows(shape),
        ("settings", f"{batch}, {schedule_text(settings)}"),
        ("run", f"{info.run_id}, seed {settings.seed}"),
        *origin_rows(info),
        ("text", f"{text_name(settings)}, "
                 f"SHA-256 {short_digest(info.corpus_sha256)}"),
        ("tokenizer", f"{settings.tokenizer}, {integer(shape.vocab_size)} tokens, "
                      f"SHA-256 {short_digest(info.tokenizer_sha256)}"),
    ]  # fmt: skip


def layer_rows(shape: ModelShape) -> list[tuple[str, str]]:
    """Return the layers of a model that are not GPT-2's, if it has any."""
    return [("layers", shape.other_layers)] if shape.other_layers else []


def text_name(settings: Settings) -> str:
    """Return the names of the training text, or where it was found."""
    if is_synthetic(settings):
        return f"{settings.synthetic_text}, generated"
    return names_as_text(settings.train_file) or "train.*, found under data/"


def schedule_text(settings: Settings) -> str:
    """Return the warm-up and what follows it: `warmup 100, decay 4,000 steps`."""
    warmup = counted(settings.warmup_steps, "step")
    if settings.cooldown:
        return f"warmup {warmup}, cooldown over the last {percent(settings.cooldown)}"
    if not settings.decay_steps:
        return f"warmup {warmup}, then constant"
    return f"warmup {integer(settings.warmup_steps)}, decay {counted(settings.decay_steps, 'step')}"


def imported_rows(info: CheckpointInfo) -> list[tuple[str, str]]:
    """Return what the header states about imported weights."""
    rows = dict(run_rows(info))
    kept = [(name, rows[name]) for name in ("model", "layers", "tokenizer") if name in rows]
    return [("trained", "not here: imported weights"), *kept]


def origin_rows(info: CheckpointInfo) -> list[tuple[str, str]]:
    """Return the checkpoint that the run started from, if it did, and what was frozen."""
    origin, rows = info.state.origin, []
    if origin is not None:
        step = f", step {integer(origin.step)}" if origin.step else ""
        rows.append(("origin", f"{shown_path(Path(origin.path))}{step}, SHA-256 {short_digest(origin.sha256)}"))
    return [*rows, ("frozen", info.settings.freeze)] if info.settings.freeze else rows


def scores_of(info: CheckpointInfo) -> str:
    """Return the losses and the scores of the step, and the best score of the run so far."""
    state = info.state
    losses = (("train loss", state.train_loss), ("step loss", state.step_loss))
    parts = [", ".join(f"{label} {nats(loss)}" for label, loss in losses if loss is not None)]
    of_part = f" ({PART_MARK}: of a part of the eval text)" if part_mark(info) else ""
    parts.append(scores_text(info.scores) + of_part if info.scores else "not evaluated at this step")
    parts.append(best_so_far(info))
    return "; ".join(part for part in parts if part)


def short_digest(digest: str) -> str:
    """Return the first characters of a hash."""
    return f"{digest[:DIGEST_CHARACTERS]}…" if len(digest) > DIGEST_CHARACTERS else digest


def status_text(file: CheckpointFile, verification: Verification) -> str:
    """Return a file's status with the reason if it is unusable."""
    match verification.state:
        case "valid":
            return "✓ OK (checksums match)"
        case "running":
            return f"… verifying, {int(verification.progress * 100)}%"
        case "pending":
            return "· waiting for verification"
    return f"✗ {reason_of(verification.error, file.stamp.path)}"


def reason_of(error: str, path: Path) -> str:
    """Return an error without the path that it starts with."""
    return error.removeprefix(str(path)).removeprefix(":").strip().removeprefix("is ")


def use_text(info: CheckpointInfo, verification: Verification) -> str:
    """Return what a checkpoint with a valid header can be used for."""
    if verification.state == "unusable":
        return "none while it cannot be read"
    if verification.is_refused:
        return "none: delete it, or replace it with a valid copy"
    if info.has_optimizer_state:
        return "chat, resume, fine-tune"
    return "chat, fine-tune; no resume, as it holds weights only"


def refusal(file: CheckpointFile, verification: Verification, use: Use, *, running: bool) -> str:
    """Return why a file cannot be used in this way, in one line with ids of keys in braces; "" if it can."""
    name = one_line(file.stamp.path.name)
    if verification.is_refused:
        return f"cannot {use} {name}: {reason_of(verification.error, file.stamp.path)}"
    if use in ("resume from", "fine-tune") and running:
        verb = use.removesuffix(" from")
        stop = "({go.train}, then {train.stop})"
        return f"a run is in progress: stop it on the Train tab {stop}, then {verb} from here"
    if use == "resume from" and file.info and not file.info.has_optimizer_state:
        return f"cannot resume from {name}: it holds weights only; fine-tune it, or resume from another one"
    return ""


def deletion_question(
    file: CheckpointFile, files: Sequence[CheckpointFile], known: Verifications, *, running_in: Path | None
) -> str:
    """Return the question before a deletion, which names what is lost.

    Args:
        file: The file to delete.
        files: All files of the tab.
        known: Their verifications.
        running_in: The folder that a run in progress saves in.
    """
    what = f"{shown_path(file.stamp.path)}, {size(file.stamp.size)}"
    if file.info:
        what += f", {file.found.kind} checkpoint at step {integer(file.info.step)}"
    lines = [f"{what}. This cannot be undone."]
    same_folder = [other for other in files if other.stamp.path.parent == file.stamp.path.parent]
    usable = [other.found for other in same_folder if not verification_of(other, known).is_refused]
    to_resume, to_chat = resume_candidates(usable), chat_candidates(usable)
    if to_resume[:1] == [file.found] and not any(other.step == to_resume[0].step for other in to_resume[1:]):
        then = f"the next one is at step {integer(to_resume[1].step)}" if to_resume[1:] else "there is no other one"
        lines.append(f"! This is the newest checkpoint to resume from; {then}.")
    if to_chat[:1] == [file.found] and file.found.kind == "best":
        lines.append("! This is the best model of its run, which the chat uses.")
    elif to_chat == [file.found] and not to_resume:
        lines.append("! This is the only usable model in its folder.")
    if running_in is not None and is_same_folder(running_in, file.stamp.path.parent):
        lines.append("! The current run saves in this folder.")
    return "\n".join(lines)
