"""What a start would train, found out beforehand: the model, the text, and which checkpoints are there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from gpt_core.config.settings import Settings
from gpt_core.errors import GptError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_core.text.corpus import find_eval_text, find_training_text
from gpt_core.training.events import RunStarted
from gpt_tui.session.checkpoints import StoredCheckpoints, glance
from gpt_tui.shared.formatting import age, percent, short, size, whole
from gpt_tui.shared.sanitize import one_line

BYTES_A_PARAMETER = 16  # weight, gradient and two moments, 4 bytes each


class Setup(NamedTuple):
    """The files a run would use; `problem` is why it could not start, in one line."""

    settings: Settings
    preset_name: str
    train_file: str = ""
    train_bytes: int = 0
    eval_file: str = ""
    problem: str = ""
    stored: StoredCheckpoints = StoredCheckpoints()
    now_s: float = 0.0


def read_setup(settings: Settings, preset_name: str) -> Setup:
    """Looks for the text and the checkpoints. Reads a few headers; meant for a worker thread."""
    setup = Setup(settings, preset_name, stored=glance(settings.models_dir), now_s=time.time())
    try:
        train = Path(settings.train_file) if settings.train_file else find_training_text()
        evaluation = Path(settings.eval_file) if settings.eval_file else find_eval_text(training_text=train)
        return setup._replace(
            train_file=shown_path(train),
            train_bytes=train.stat().st_size,
            eval_file=shown_path(evaluation) if evaluation else "",
        )
    except GptError as error:
        return setup._replace(problem=one_line(str(error)))
    except OSError as error:
        return setup._replace(problem=f"{one_line(str(error.filename))} cannot be read: {error.strerror}")


def shown_path(path: Path) -> str:
    """A path as text that is safe to show, relative to the working directory where that is shorter."""
    absolute, here = str(path.absolute()), f"{Path.cwd()}/"
    return one_line(absolute.removeprefix(here))


def model_name(setup: Setup) -> str:
    """`nano · 1.06M parameters`."""
    count = f"{short(parameter_count(setup.settings.shape))} parameters"
    return f"{setup.preset_name} · {count}" if setup.preset_name else count


def run_name(started: RunStarted) -> str:
    """The same of a run that has begun, which may be another preset's."""
    what = "overfit" if started.kind != "train" else started.preset
    count = f"{short(started.parameters)} parameters"
    return f"{what} · {count}" if what else count


def setup_rows(setup: Setup) -> list[tuple[str, str]]:
    """What a start would train, as (label, text)."""
    settings, shape = setup.settings, setup.settings.shape
    parameters = parameter_count(shape)
    tokens = settings.batch_size * settings.seq_len
    held_out = f"the last {percent(settings.val_frac)} of the text"
    rows = [
        ("model", f"{setup.preset_name or 'own shape'}, {whole(parameters)} parameters"),
        ("shape", f"{shape.layers} layers, {shape.d_model} wide, {shape.num_heads} heads, context {shape.seq_len}"),
        ("text", f"{setup.train_file}, {size(setup.train_bytes)}" if setup.train_file else setup.problem),
        ("batch", f"{settings.batch_size} × {settings.seq_len} = {whole(tokens)} tokens a step, {length(settings)}"),
        ("memory", f"{size(parameters * BYTES_A_PARAMETER)} for weights and optimizer, besides activations"),
        ("saves", f"{one_line(settings.models_dir)}/, {saving(settings)}"),
    ]
    return rows if setup.problem else [*rows[:3], ("eval text", setup.eval_file or held_out), *rows[3:]]


def length(settings: Settings) -> str:
    """How long a run goes on at most."""
    steps = f"{whole(settings.max_steps)} steps or " if settings.max_steps else ""
    return f"up to {steps}{settings.max_epochs} epochs"


def saving(settings: Settings) -> str:
    """When a run saves by itself."""
    when = [f"every {settings.save_every_minutes:g} minutes"] if settings.save_every_minutes else []
    when += [f"every {whole(settings.save_every_steps)} steps"] if settings.save_every_steps else []
    return " and ".join([*when[:1], "when it stops"])


def checkpoint_words(info: CheckpointInfo, now_s: float) -> str:
    """One checkpoint in words: its file, step and age."""
    when = age(max(0.0, now_s - info.saved_at))
    return f"{info.path.name}, step {whole(info.step)}, {when} old"
