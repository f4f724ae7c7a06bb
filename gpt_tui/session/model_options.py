"""Options of a model selector: the model in training, and checkpoints. Does not import Textual."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_tui.shared.formatting import age, integer, nats
from gpt_tui.shared.sanitize import one_line

AUTOMATIC = "automatic"  # the model in training, else best_model, else the newest checkpoint
NO_COMPARISON = "none"  # every other value of an option is the path of a checkpoint


class OtherModel(NamedTuple):
    """Checkpoint of a run in another folder, which may be in training there."""

    info: CheckpointInfo
    is_live: bool = False


class AvailableModels(NamedTuple):
    """The models that can reply.

    Attributes:
        folder: The models folder.
        live: A model is in training.
        checkpoints: The checkpoints of the folder, the one that `AUTOMATIC` selects first.
        others: Checkpoints of the runs in other folders: runs in training first, then the newest ones.
        now_s: The time of the listing, in seconds since 1970.
        example: A prompt in the language of the text that the first model was trained on, "" for none.
    """

    folder: Path = Path()
    live: bool = False
    checkpoints: tuple[CheckpointInfo, ...] = ()
    others: tuple[OtherModel, ...] = ()
    now_s: float = 0.0
    example: str = ""

    @property
    def any(self) -> bool:
        """True if there is at least one model."""
        return self.live or bool(self.checkpoints or self.others)

    @property
    def automatic(self) -> CheckpointInfo | None:
        """The checkpoint that `AUTOMATIC` selects; None for the model in training, and without a model."""
        listed = [] if self.live else [*self.checkpoints, *(other.info for other in self.others)]
        return listed[0] if listed else None

    def file_of(self, value: str) -> tuple[Path, float] | None:
        """Return the checkpoint of an option's value and the time of its save; None for the model in training."""
        listed = [*self.checkpoints, *(other.info for other in self.others)]
        found = self.automatic if value == AUTOMATIC else next((i for i in listed if str(i.path) == value), None)
        return (found.path, found.saved_at) if found else None


class ModelOption(NamedTuple):
    """One line of a model selector and its value."""

    label: str
    value: str


def model_options(available: AvailableModels, selected: str, *, compare: bool) -> list[ModelOption]:
    """Return the options of a model selector, with `none` first if it selects the model to `compare` with.

    The `selected` value stays an option when its file is no longer listed.
    """
    options = [ModelOption("none", NO_COMPARISON)] if compare else []
    options.append(ModelOption(automatic_label(available), AUTOMATIC))
    own = [OtherModel(info) for info in available.checkpoints]
    options += [
        ModelOption(option_label(model, available), str(model.info.path)) for model in (*own, *available.others)
    ]
    if selected not in (option.value for option in options):
        options.append(ModelOption(checkpoint_name(Path(selected), available.folder), selected))
    return options


def checkpoint_name(path: Path, folder: Path) -> str:
    """Return a checkpoint's name, with its folder where that is not `folder`: `best_model`, `second/best_model`.

    The folder is relative to `folder`, or else to the working folder, if it is below one of them.
    """
    path = path.with_suffix("")
    bases = [folder]
    with suppress(FileNotFoundError):  # the working folder was deleted
        bases.append(Path.cwd())
    for base in bases:
        if path.is_relative_to(base):
            return one_line(str(path.relative_to(base)))
    return one_line(str(path) if not path.is_absolute() else f"{path.parent.name}/{path.name}")


def automatic_label(available: AvailableModels) -> str:
    """Return the label of the automatic option, which names the model that it selects now."""
    if available.live:
        return "automatic · in training"
    if (first := available.automatic) is None:
        return "automatic · none yet"
    return f"automatic · {checkpoint_name(first.path, available.folder)} · step {integer(first.step)}"


def option_label(model: OtherModel, available: AvailableModels) -> str:
    """Return a checkpoint's label: `transformer · step 1,200 · eval loss 4.221 · final · 3 min ago`."""
    info = model.info
    name = checkpoint_name(info.path, available.folder)
    kind = "run in training" if model.is_live else "" if info.kind == "other" else info.kind
    loss = f"eval loss {nats(info.scores.loss)}" if info.scores else ""
    saved = f"{age(max(0.0, available.now_s - info.saved_at))} ago"
    return " · ".join(part for part in (name, f"step {integer(info.step)}", loss, kind, saved) if part)
