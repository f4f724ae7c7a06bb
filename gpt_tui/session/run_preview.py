"""Run preview: the model, text and checkpoints of the next run, found before it starts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from gpt_core.checkpoints.store import CheckpointStore, chat_candidates, resume_candidates
from gpt_core.config.presets import shape_name
from gpt_core.config.settings import Settings
from gpt_core.errors import GptError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_core.text.corpus import find_eval_text, find_training_text
from gpt_core.training.events import RunStarted
from gpt_tui.shared.formatting import integer, short
from gpt_tui.shared.sanitize import one_line


class StoredCheckpoints(NamedTuple):
    """Checkpoints of a models folder that the app offers, chosen by their headers: each may still be damaged."""

    resumable: CheckpointInfo | None = None
    for_chat: CheckpointInfo | None = None


class RunPreview(NamedTuple):
    """Preview of a run.

    Attributes:
        settings: Settings of the run.
        preset_name: Preset that the settings began with, "" for none.
        train_file: Training text, relative to the working folder where that is shorter; "" if there is none.
        train_bytes: Its size.
        eval_file: Eval text, "" where the end of the training text is used.
        problem: Why the run could not start, in one line; "" if it can.
        stored: Checkpoints to resume and to chat with.
        now_s: Time of the preview, in seconds since the epoch.
    """

    settings: Settings
    preset_name: str
    train_file: str = ""
    train_bytes: int = 0
    eval_file: str = ""
    problem: str = ""
    stored: StoredCheckpoints = StoredCheckpoints()
    now_s: float = 0.0

    @property
    def model(self) -> str:
        """Name of the preset with the shape of the model, "custom" if there is none."""
        return shape_name(self.settings.shape)


def read_preview(settings: Settings, preset_name: str) -> RunPreview:
    """Find text and checkpoints of a run. Reads the headers of files, so call it in a worker thread."""
    preview = RunPreview(settings, preset_name, stored=stored_checkpoints(settings.models_dir), now_s=time.time())
    try:
        train = Path(settings.train_file) if settings.train_file else find_training_text()
        evaluation = Path(settings.eval_file) if settings.eval_file else find_eval_text(training_text=train)
        return preview._replace(
            train_file=shown_path(train),
            train_bytes=train.stat().st_size,
            eval_file=shown_path(evaluation) if evaluation else "",
        )
    except GptError as error:
        return preview._replace(problem=one_line(str(error)))
    except OSError as error:
        return preview._replace(problem=f"{one_line(str(error.filename))} cannot be read: {error.strerror}")


def stored_checkpoints(models_dir: str) -> StoredCheckpoints:
    """Return the checkpoints to resume and to chat with. Fast: only headers are read."""
    try:
        listing = CheckpointStore(models_dir).list()
    except (GptError, OSError):
        return StoredCheckpoints()
    return StoredCheckpoints(next(iter(resume_candidates(listing)), None), next(iter(chat_candidates(listing)), None))


def existing_run(models_dir: str) -> str:
    """Return what a new run in this folder would replace, "" for nothing. Fast: only headers are read."""
    try:
        found = [info for info in CheckpointStore(models_dir).list() if info.kind != "other"]
    except (GptError, OSError):
        return ""
    newest = next((info for info in found if isinstance(info, CheckpointInfo)), None)
    if newest is not None:
        return f"a run at step {integer(newest.step)}"
    return "a damaged checkpoint" if found else ""


def shown_path(path: Path) -> str:
    """Return a path that is safe to show, relative to the working folder where that is shorter."""
    absolute, here = str(path.absolute()), f"{Path.cwd()}/"
    return one_line(absolute.removeprefix(here))


def model_name(preview: RunPreview) -> str:
    """Return preset and size of the model: `nano · 1.06M parameters`."""
    return named_size(preview.model, parameter_count(preview.settings.shape))


def run_name(started: RunStarted) -> str:
    """Return preset and size of the model of a run that has started."""
    return named_size("self-test" if started.kind != "train" else started.preset, started.parameters)


def named_size(name: str, parameters: int) -> str:
    """Return a name, if there is one, and a number of parameters."""
    size = f"{short(parameters)} parameters"
    return f"{name} · {size}" if name else size
