"""What the chat's two choosers offer: which model answers, and which one beside it. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_tui.shared.formatting import age, whole
from gpt_tui.shared.sanitize import one_line

AUTOMATIC = "automatic"  # the model in training, else best_model, else the newest checkpoint
NOBODY = "nobody"  # beside the model that answers; every other value is a checkpoint's path


class Listed(NamedTuple):
    """The models there are: whether one is in training, and the folder's checkpoints, the one to chat with first."""

    folder: Path = Path()
    live: bool = False
    checkpoints: tuple[CheckpointInfo, ...] = ()
    now_s: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is a model to chat with at all."""
        return self.live or bool(self.checkpoints)


class Option(NamedTuple):
    """One line of a chooser: the words, and the value they stand for."""

    words: str
    value: str


def offers(listed: Listed, chosen: str, *, beside: bool) -> list[Option]:
    """The lines of a chooser. What is `chosen` already is among them, even when its file is no longer listed."""
    there = [Option(checkpoint_words(info, listed.now_s), str(info.path)) for info in listed.checkpoints]
    lines = [Option("none", NOBODY)] if beside else []
    lines += [Option(automatic_words(listed), AUTOMATIC), *there]
    if chosen not in (line.value for line in lines):
        lines.append(Option(called(Path(chosen), listed.folder), chosen))
    return lines


def called(path: Path, folder: Path) -> str:
    """A checkpoint's name, with the folder it is in where that is another: `best_model`, `second/best_model`."""
    return one_line(path.stem if path.parent == folder else f"{path.parent.name}/{path.stem}")


def automatic_words(listed: Listed) -> str:
    """What the automatic choice means now."""
    if listed.live:
        return "automatic · in training"
    if not listed.checkpoints:
        return "automatic · none yet"
    first = listed.checkpoints[0]
    return f"automatic · {one_line(first.path.stem)} · step {whole(first.step)}"


def checkpoint_words(info: CheckpointInfo, now_s: float) -> str:
    """`transformer · step 1,200 · final · 3 min old`: what matters most first, for lines that are cut."""
    kind = "" if info.kind == "other" else info.kind
    old = f"{age(max(0.0, now_s - info.saved_at))} old"
    return " · ".join(part for part in (one_line(info.path.stem), f"step {whole(info.step)}", kind, old) if part)
