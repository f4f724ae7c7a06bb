"""What a start would train, found out beforehand: the model, the text, and which checkpoints are there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from gpt_core.config.settings import Settings
from gpt_core.errors import GptError
from gpt_core.model.parameters import parameter_count
from gpt_core.text.corpus import find_eval_text, find_training_text
from gpt_core.training.events import RunStarted
from gpt_tui.session.checkpoints import StoredCheckpoints, glance
from gpt_tui.shared.formatting import short
from gpt_tui.shared.sanitize import one_line


class RunPreview(NamedTuple):
    """The files a run would use; `problem` is why it could not start, in one line."""

    settings: Settings
    preset_name: str
    train_file: str = ""
    train_bytes: int = 0
    eval_file: str = ""
    problem: str = ""
    stored: StoredCheckpoints = StoredCheckpoints()
    now_s: float = 0.0


def read_preview(settings: Settings, preset_name: str) -> RunPreview:
    """Looks for the text and the checkpoints. Reads a few headers; meant for a worker thread."""
    preview = RunPreview(settings, preset_name, stored=glance(settings.models_dir), now_s=time.time())
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


def shown_path(path: Path) -> str:
    """A path as text that is safe to show, relative to the working directory where that is shorter."""
    absolute, here = str(path.absolute()), f"{Path.cwd()}/"
    return one_line(absolute.removeprefix(here))


def model_name(preview: RunPreview) -> str:
    """`nano · 1.06M parameters`."""
    count = f"{short(parameter_count(preview.settings.shape))} parameters"
    return f"{preview.preset_name} · {count}" if preview.preset_name else count


def run_name(started: RunStarted) -> str:
    """The same of a run that has begun, which may be another preset's."""
    what = "overfit" if started.kind != "train" else started.preset
    count = f"{short(started.parameters)} parameters"
    return f"{what} · {count}" if what else count
