"""Options of a command resolved to a run request, to settings, or to a model."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt_core.bench.budget_rule import budget_request, with_choice
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.resolve import Overrides, Resolved, read_overrides
from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import PREFERENCES
from gpt_core.config.validation import TEXTS
from gpt_core.errors import CheckpointError, ConfigError, InputError
from gpt_core.formats.bundle import bundle_of, load_bundle
from gpt_core.home import expand_home
from gpt_core.kernels import compute_threads, threads, threads_warning
from gpt_core.model.bundle import ModelBundle
from gpt_core.training.fine_tuning import resolve_new
from gpt_core.training.request import Newest, RunRequest, with_micro_batches
from gpt_core.training.setup import text_note, text_sources
from gpt_tui.cli.main import option_of
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.sanitize import one_line

SETTING_OPTIONS = (
    "seed", "threads", "learning_rate", "train_file", "eval_file", "text_field", "encoding", "init_from", "models_dir",
    "max_steps", "minutes", "overfit_tiny",
)  # fmt: skip


def requested_run(options: Namespace, overrides: Overrides, ranks: int = 1) -> RunRequest:
    """Return the run of so many ranks that the options and the settings request.

    Raises ConfigError, CheckpointError or CorpusError.
    """
    resume: Path | Newest | None = typed_path(options.resume, "--resume") if options.resume else None
    if options.resume == "":  # --resume without a file
        resume = "newest"
    with ProgressLine() as waiting:
        return budget_request(
            overrides, resume=resume, overwrite=getattr(options, "overwrite", False), ranks=ranks, progress=waiting
        )


def resolve_settings(options: Namespace) -> Resolved:
    """Return the settings in force, on several ranks with a micro-batch for each, unless another size was requested.

    Raises ConfigError, or CheckpointError for the file of `init_from`.
    """
    overrides = requested_settings(options)
    resolved = resolve_new(with_choice(overrides)[0])
    if options.ranks is None or "micro_batch_size" in overrides.values:
        return resolved
    return resolved._replace(settings=with_micro_batches(resolved.settings, len(options.ranks.hosts)))


def refuse_run_length(options: Namespace, reason: str) -> None:
    """Raise InputError for options of the length and the folder of a run in a command that takes `--steps` instead.

    Args:
        options: Options of the command.
        reason: What the command does instead, for the message.
    """
    if any(value is not None for value in (options.models_dir, options.max_steps, options.minutes)):
        raise InputError(f"--models-dir, --max-steps and --minutes have no effect here: {reason} for --steps")


def report_text_note(settings: Settings) -> None:
    """Print the note about the texts of a run on standard error, if there is one. Raises CorpusError."""
    if note := text_note(settings, text_sources(settings)[0]):
        print(f"gpt-tui: {one_line(note, 1000)}", file=sys.stderr)


def requested_settings(options: Namespace) -> Overrides:
    """Read the settings that a command's options request. Raises ConfigError."""
    return read_overrides(
        options.preset, config_file(options), options.assignments, values_of(options, SETTING_OPTIONS), os.environ,
        foreign=PREFERENCES,
    )  # fmt: skip


def is_typed(overrides: Overrides, name: str) -> bool:
    """Return True if a setting was requested by an option or `--set`, and not in a config file alone."""
    return any(name in layer for source, layer in overrides.layers if source.startswith("--"))


def values_of(options: Namespace, names: Sequence[str]) -> dict[str, object]:
    """Return the values of options that are settings.

    Raises:
        ConfigError: A text or a checkpoint has an empty name, as from "$TEXT" without a value: not the default one.
    """
    values = {name: getattr(options, name) for name in names}
    for name in (*TEXTS, "init_from"):
        if values.get(name) in ("", [""]):
            raise ConfigError(f"{option_of(name)}: got an empty name; name a file, or omit {option_of(name)}")
    return values


def config_file(options: Namespace) -> Path | None:
    """Return the file of `--config`. Raises ConfigError for an unknown home folder."""
    return typed_path(options.config, "--config") if options.config is not None else None


def typed_path(name: str, option: str) -> Path:
    """Return the path that an argument names, with a leading `~` expanded: shells leave that of `--option=~/x`.

    Args:
        name: Path as typed.
        option: Name of the option or argument, for the error message.

    Raises:
        ConfigError: The path is empty, or the home folder is unknown.
    """
    if not name:
        raise ConfigError(f"{option}: got '', expected a path")
    try:
        return expand_home(name)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None


def output_path(name: str, option: str) -> Path:
    """Return the path of what a command writes. Raises ConfigError for `-`, which stands for standard output."""
    if name == "-":
        raise ConfigError(f"{option}: got '-', expected a path: this command cannot write to standard output")
    return typed_path(name, option)


def load_model(options: Namespace, names: Sequence[str] = ()) -> ModelBundle:
    """Load the model that `--model`, or else `--models-dir`, selects, with the options over its settings.

    Args:
        options: Options of the command; sets the number of threads, too.
        names: Settings that the command has options for.

    Raises:
        GptError: There is no such checkpoint, it is damaged, or an option is not valid.
    """
    return with_options(load_chosen(options), options, names)


def with_options(bundle: ModelBundle, options: Namespace, names: Sequence[str] = ()) -> ModelBundle:
    """Return a model with the options over its settings, as `load_model`. Raises ConfigError for an option."""
    given = values_of(options, (*names, "threads"))
    assignments = getattr(options, "assignments", ())
    settings = read_overrides(assignments=assignments, options=given).apply_to(bundle.settings).settings
    threads.set_threads(compute_threads(settings.threads))
    if options.threads is not None and (warning := threads_warning(settings.threads)):
        print(f"gpt-tui: --{warning}", file=sys.stderr)
    return replace(bundle, settings=settings)


def load_chosen(options: Namespace) -> ModelBundle:
    """Load the file of `--model`, else the best model of the folder, else its newest.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
        ConfigError: The folder is a file, or both are given.
    """
    if options.model is not None and options.models_dir is not None:
        raise ConfigError("got --model and --models-dir, expected one of them: --model is a path of its own")
    if options.model is not None:
        return load_bundle(typed_path(options.model, "--model"))
    given = options.models_dir is not None
    folder = typed_path(options.models_dir if given else Settings().models_dir, "--models-dir")
    if (model := load_from_folder(folder)) is not None:
        return model
    from gpt_tui.session.run_finder import log_folders

    there = f" --models-dir {shlex.quote(str(folder))}" if given else ""
    remedy = f"train a model with `gpt-tui{there}`, or name a checkpoint with --model FILE"
    if below := [found for found in log_folders([folder]) if found != folder]:
        others = f" and {len(below) - 1} more" if len(below) > 1 else ""
        remedy = f"name a folder of a run with --models-dir: {below[0]}{others}"
    raise CheckpointError(f"no checkpoint in {folder}; {remedy}")


def load_from_folder(folder: Path) -> ModelBundle | None:
    """Load the best model of a folder, else its newest; None without a valid one. Print which are unusable.

    Raises:
        ConfigError: The folder is a file.
    """
    loaded = CheckpointStore(folder).load_for_chat()
    for unusable in loaded.unusable:
        print(f"gpt-tui: skipped: {one_line(unusable.error)}", file=sys.stderr)
    return bundle_of(loaded.checkpoint) if loaded.checkpoint is not None else None
