"""Resolve the options of a command to settings, a checkpoint or a model."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from gpt_core import tokenizers
from gpt_core.checkpoints.store import CheckpointStore, Found
from gpt_core.config.resolve import Resolved, resolve
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError
from gpt_core.formats.checkpoint import CheckpointInfo, TrainingState, read_checkpoint
from gpt_core.kernels import available_cores, threads
from gpt_core.model.parameters import Parameters
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.request import Newest, RunRequest, resolve_request
from gpt_tui.app.preferences import NAMES as PREFERENCES
from gpt_tui.shared.sanitize import one_line

SETTING_OPTIONS = ("seed", "threads", "train_file", "eval_file", "models_dir", "max_steps", "overfit_tiny")


class Model(NamedTuple):
    """A loaded checkpoint without optimizer state; `settings` are the checkpoint's, overridden by the options."""

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
    """Load the model that `--model` or `--models-dir` selects, and set the number of threads.

    `names` are the settings that the command has options for. Raises CheckpointError, ConfigError or TokenizerError.
    """
    path = chosen_checkpoint(options)
    checkpoint = read_checkpoint(path, moments=False)
    given = {name: getattr(options, name) for name in (*names, "threads")}
    settings = resolve(options=given, base=checkpoint.settings, base_preset=checkpoint.preset).settings
    tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
    threads.set_threads(settings.threads or available_cores())
    return Model(path, settings, checkpoint.state, tokenizer, checkpoint.corpus_sha256, checkpoint.parameters)


def chosen_checkpoint(options: Namespace) -> Path:
    """Return the file of `--model`, else the best model of the folder, else its newest. Raises CheckpointError."""
    if options.model is not None:
        return Path(options.model)
    folder = Path(options.models_dir or Settings().models_dir)
    info = found(CheckpointStore(folder).for_chat())
    if info is None:
        raise CheckpointError(
            f"no checkpoint in {folder}; train a model with `gpt-tui`, or name a checkpoint with --model FILE"
        )
    return info.path


def found(choice: Found) -> CheckpointInfo | None:
    """Return the checkpoint that was found. Skipped damaged files are named on standard error."""
    for damaged in choice.damaged:
        print(f"gpt-tui: skipped: {one_line(damaged.error)}", file=sys.stderr)
    return choice.info
