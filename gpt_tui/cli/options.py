"""From the options of a command to the checkpoint, the settings and the model that they mean."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from gpt_core import tokenizers
from gpt_core.checkpoints.store import CheckpointStore, Loaded
from gpt_core.config.resolve import Resolved, resolve
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState, read_checkpoint
from gpt_core.kernels import available_cores, threads
from gpt_core.model.parameters import Parameters
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.request import Newest, RunRequest, resolve_request
from gpt_tui.app.preferences import NAMES as PREFERENCES
from gpt_tui.shared.sanitize import one_line

SETTING_OPTIONS = ("seed", "threads", "train_file", "eval_file", "models_dir", "max_steps", "overfit_tiny")


class Model(NamedTuple):
    """A checkpoint without what only training needs; `settings` are the checkpoint's, with the options over them."""

    path: Path
    settings: Settings
    state: TrainingState
    tokenizer: Tokenizer
    corpus_sha256: str
    parameters: Parameters


def requested_run(options: Namespace) -> RunRequest:
    """Return the run that the options request. Raises ConfigError, CheckpointError or CorpusError."""
    resume: Path | Newest | None = Path(options.resume) if options.resume else None
    if options.resume == "":  # --resume without a file
        resume = "newest"
    return resolve_request(**setting_sources(options), resume=resume, overwrite=getattr(options, "overwrite", False))


def resolve_settings(options: Namespace) -> Resolved:
    """Return the settings in force."""
    return resolve(**setting_sources(options))


class SettingSources(TypedDict):
    """The sources of settings, as `resolve` and `resolve_request` take them."""

    preset: str | None
    config_file: Path | None
    assignments: Sequence[str]
    options: Mapping[str, object]
    environ: Mapping[str, str]
    foreign: Sequence[str]


def setting_sources(options: Namespace) -> SettingSources:
    """Return where a command's options take settings from."""
    return {
        "preset": options.preset,
        "config_file": config_file(options),
        "assignments": options.assignments,
        "options": {name: getattr(options, name) for name in SETTING_OPTIONS},
        "environ": os.environ,
        "foreign": PREFERENCES,
    }


def config_file(options: Namespace) -> Path | None:
    """Return the file of `--config`."""
    return Path(options.config) if options.config is not None else None


def load_model(options: Namespace, names: Sequence[str] = ()) -> Model:
    """The model that `--model` or else `--models-dir` names. `names` are settings that the command has options for.

    Threads are set as asked. Raises CheckpointError, ConfigError or TokenizerError.
    """
    checkpoint = load_chosen(options)
    given = {name: getattr(options, name) for name in (*names, "threads")}
    settings = resolve(options=given, base=checkpoint.settings, base_preset=checkpoint.preset).settings
    tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
    threads.set_threads(settings.threads or available_cores())
    assert checkpoint.path is not None
    return Model(
        checkpoint.path, settings, checkpoint.state, tokenizer, checkpoint.corpus_sha256, checkpoint.parameters
    )


def load_chosen(options: Namespace) -> Checkpoint:
    """Load the file named by `--model`, else the best model of the folder, else its newest. Raises CheckpointError."""
    if options.model is not None:
        return read_checkpoint(options.model, optimizer_state=False)
    folder = Path(options.models_dir or Settings().models_dir)
    checkpoint = report_damaged(CheckpointStore(folder).load_for_chat())
    if checkpoint is None:
        raise CheckpointError(f"no checkpoint in {folder}: train one with `gpt-tui`, or name one with --model FILE")
    return checkpoint


def report_damaged(loaded: Loaded) -> Checkpoint | None:
    """Return the checkpoint; name the damaged ones that were skipped on standard error."""
    for damaged in loaded.damaged:
        print(f"gpt-tui: passed over: {one_line(damaged.error)}", file=sys.stderr)
    return loaded.checkpoint
