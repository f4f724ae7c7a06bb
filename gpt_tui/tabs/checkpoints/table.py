"""The table of the Checkpoints tab, as text: which columns there is room for, and what stands in each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from gpt_core.config.settings import ModelShape
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_tui.session.run_state import Tone
from gpt_tui.shared.formatting import age, nats, percent, short, size, whole
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.checkpoints.files import Stamp, StoredFile

GAP = "  "
LEAST_NAME, MOST_NAME = 11, 40  # 11: ckpt_latest


class Verdict(NamedTuple):
    """What is known of a file's wholeness; `share` of it is read while it is checked, `error` is what is wrong."""

    state: Literal["unchecked", "checking", "whole", "damaged"] = "unchecked"
    share: float = 0.0
    error: str = ""


Verdicts = Mapping[Stamp, Verdict]


class Line(NamedTuple):
    """A row: all but its last column, and the last one, which says whether the file is whole, with its tone."""

    text: str
    check: str
    tone: Tone


class Table(NamedTuple):
    """The column titles and the rows, all of one width."""

    titles: str
    lines: tuple[Line, ...]


class _Column(NamedTuple):
    title: str
    cells: list[str]
    rank: int  # the lowest rank goes first when there is no room
    to_the_right: bool = False

    @property
    def width(self) -> int:
        return max(map(len, (self.title, *self.cells)))


def verdict_of(file: StoredFile, verdicts: Verdicts) -> Verdict:
    """What is known of a file: a header that makes no sense needs no further check."""
    if not isinstance(file.found, CheckpointInfo):
        return Verdict("damaged", error=file.found.error)
    return verdicts.get(file.stamp, Verdict())


def next_unchecked(files: Sequence[StoredFile], verdicts: Verdicts) -> StoredFile | None:
    """The first file whose wholeness is not known."""
    return next((file for file in files if verdict_of(file, verdicts).state in ("unchecked", "checking")), None)


def check_words(file: StoredFile, verdict: Verdict) -> tuple[str, Tone]:
    """Whether it is whole: a sign and a word, and their tone."""
    if verdict.state == "whole":
        return "✓ whole", "good"
    if verdict.state == "checking":
        return f"… {int(verdict.share * 100)}%", "plain"
    if verdict.state == "unchecked":
        return "· waiting", "dim"
    is_stranger = file.info is None and file.found.kind == "other"
    return ("✗ foreign", "dim") if is_stranger else ("✗ damaged", "bad")


def mean_loss(info: CheckpointInfo) -> str:
    """The mean loss of the epoch that was under way, "" at its very beginning."""
    return nats(info.state.loss_sum / info.state.loss_count) if info.state.loss_count else ""


def best_accuracy(info: CheckpointInfo) -> str:
    """The best eval accuracy so far, "" before the first evaluation."""
    return percent(info.state.best_accuracy) if info.state.best_accuracy >= 0 else ""


def shape_words(shape: ModelShape) -> str:
    """`4 × 128, 1.06M`: layers, width, parameters."""
    return f"{shape.layers} × {shape.d_model}, {short(parameter_count(shape))}"


def table(files: Sequence[StoredFile], verdicts: Verdicts, now_s: float, width: int) -> Table:
    """The rows in the order of `files`, in at most `width` cells where that can be; names are cut last."""
    checks = [check_words(file, verdict_of(file, verdicts)) for file in files]
    name = _Column("name", [one_line(file.name) for file in files], 9)
    last = _Column("check", [words for words, _ in checks], 9)
    room = width - len(GAP) - max(last.width, len("✗ damaged"))
    columns = _that_fit(_middle(files, now_s), room - max(LEAST_NAME, min(MOST_NAME, name.width)))
    taken = sum(column.width + len(GAP) for column in columns)
    name_width = max(LEAST_NAME, min(name.width, room - taken))
    titles = _joined(name.title, name_width, columns, None)
    lines = [
        Line(_joined(text, name_width, columns, at) + GAP, words, tone)
        for at, (text, (words, tone)) in enumerate(zip(name.cells, checks, strict=True))
    ]
    return Table(titles + GAP + last.title, tuple(lines))


def _middle(files: Sequence[StoredFile], now_s: float) -> list[_Column]:
    """Every column between the name and the check, in order."""

    def cells(words: Callable[[CheckpointInfo], str]) -> list[str]:
        return [words(file.info) if file.info else "" for file in files]

    return [
        _Column("kind", [file.found.kind for file in files], 2),
        _Column("step", cells(lambda info: whole(info.step)), 8, True),
        _Column("loss", cells(lambda info: mean_loss(info) or "–"), 5, True),
        _Column("accuracy", cells(lambda info: best_accuracy(info) or "–"), 6, True),
        _Column("shape", cells(lambda info: shape_words(info.settings.shape)), 1),
        _Column("size", [size(file.stamp.size) for file in files], 4, True),
        _Column("age", [age(max(0.0, now_s - file.saved_s)) for file in files], 7, True),
    ]


def _that_fit(columns: list[_Column], room: int) -> list[_Column]:
    while columns and sum(column.width + len(GAP) for column in columns) > room:
        least = min(columns, key=lambda column: column.rank)
        columns = [column for column in columns if column is not least]
    return columns


def _joined(name: str, name_width: int, columns: list[_Column], at: int | None) -> str:
    """One line without its last column: the titles where `at` is None, else a row."""
    parts = [name.ljust(name_width) if len(name) <= name_width else f"{name[: name_width - 1]}…"]
    for column in columns:
        text = column.title if at is None else column.cells[at]
        parts.append(text.rjust(column.width) if column.to_the_right else text.ljust(column.width))
    return GAP.join(parts)
