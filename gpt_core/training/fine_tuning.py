"""Fine-tuning: settings, weights and tokenizer of a new run that starts from a checkpoint (`init_from`).

The file determines the shape of the model and its tokenizer; only the context may be shorter, as it is by default where
that of the file is longer than `MAX_CONTEXT`, and the position embeddings are then cut. All other settings are those of
the preset nearest in size, with the defaults for fine-tuning (`gpt_core.config.fine_tuning`). Optimizer, schedule and
step count begin anew. The file is read when the run is opened and not needed afterwards: its digest is part of the
training state.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpt_core import files, tokenizers
from gpt_core.checkpoints.folders import next_free_folder
from gpt_core.config.fine_tuning import FROM_FILE, fine_tuning_defaults, settings_from_file
from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.resolve import Overrides, Resolved
from gpt_core.config.settings import GROUP_RATES, ModelShape, Settings
from gpt_core.config.validation import READING, TEXTS
from gpt_core.errors import CheckpointError, ConfigError, shown
from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.formats.training_state import Origin
from gpt_core.model.layers.embedding import WPE
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.synthetic import is_synthetic
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer

MIN_BYTES_PER_TOKEN = 2.0  # of a text; with fewer, the tokenizer was trained on another language or kind of text


class StartingPoint(NamedTuple):
    """Weights and tokenizer of the checkpoint that a run starts from, where they come from, and its context."""

    parameters: Parameters
    tokenizer: Tokenizer
    origin: Origin
    seq_len: int


def resolve_new(overrides: Overrides) -> Resolved:
    """Return the settings of a new run: those of a preset or, with `init_from`, of fine-tuning, and the requested ones.

    Raises:
        ConfigError: The settings contradict each other, or the file that the run starts from.
        CheckpointError: That file cannot be read or is not a checkpoint.
    """
    path = str(overrides.value("init_from"))
    if not path:
        return overrides.apply_to()
    file = peek_start(path).settings
    name = overrides.preset or nearest_preset(file.shape)
    requested = list(overrides.layers)
    if overrides.preset is not None:
        shape = msgspec.structs.asdict(preset(name).shape)
        requested.insert(0, (f"preset {name}", shape))
    values = {key: value for _, layer in requested for key, value in layer.items()}
    check_start(path, file, values, {key: source for source, layer in requested for key in layer})
    start = [("init_from", settings_from_file(file))]
    if not overrides.value("overfit_tiny"):  # a self-test needs the full rates to memorize its lines
        start.append(("fine-tuning", fine_tuning_defaults(name)))
    return Overrides(name, (*start, *requested)).apply_to()


def settings_to_fine_tune(path: Path, here: Settings) -> Resolved:
    """Return the settings of a run that starts from a checkpoint, saved in a new folder beside that of the checkpoint.

    Args:
        path: The checkpoint.
        here: Settings whose texts, threads and seed are used.

    Raises:
        CheckpointError: The file cannot be read or is not a checkpoint.
    """
    kept = {name: getattr(here, name) for name in (*TEXTS, *READING, "threads", "seed")}
    own = {"init_from": str(path), "models_dir": str(next_free_folder(path.parent))}
    return resolve_new(Overrides(None, (("checkpoint", kept | own),)))


def peek_start(path: str) -> CheckpointInfo:
    """Return the header of the checkpoint that a run starts from.

    Raises:
        CheckpointError: The file cannot be read or is not a checkpoint.
    """
    try:
        return peek_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"init_from: {error}") from None


def full_rates(shape: ModelShape) -> dict[str, float]:
    """Return the learning rates with which a preset of about this size trains random weights, by setting."""
    base = preset(nearest_preset(shape))
    return {name: getattr(base, name) for name in GROUP_RATES}


def nearest_preset(shape: ModelShape) -> str:
    """Return the preset whose number of parameters is nearest to that of a shape, as a ratio.

    It is one for any text: none with a text of its own.
    """

    def distance(name: str) -> float:
        return abs(math.log(parameter_count(preset(name).shape) / parameter_count(shape)))

    return min((name for name in PRESETS if not is_synthetic(preset(name))), key=distance)


def differing_settings(file: Settings, requested: Mapping[str, object]) -> list[str]:
    """Return the names of requested settings that a run cannot have which starts from a file with the settings `file`.

    They are those of `FROM_FILE` with another value; a shorter context is possible.
    """
    return [
        key for key in FROM_FILE
        if key in requested and requested[key] != getattr(file, key)
        and not (key == "seq_len" and isinstance(length := requested[key], int) and length < file.seq_len)
    ]  # fmt: skip


def check_start(
    path: str, file: Settings, requested: Mapping[str, object], sources: Mapping[str, str] | None = None
) -> None:
    """Check that a run with the requested settings can start from a checkpoint with the settings `file`.

    Args:
        path: The checkpoint.
        file: Its settings.
        requested: Requested settings by name; those that are missing are taken from the file.
        sources: Where the requested settings come from, for the error message.

    Raises:
        ConfigError: Lists each setting that differs, with both values.
    """
    differing = [
        f"{key} is {shown(getattr(file, key))} in it, {shown(requested[key])} was requested"
        + (f" ({sources[key]})" if sources else "")
        for key in differing_settings(file, requested)
    ]
    if differing:
        raise ConfigError(
            f"init_from: a run cannot start from {path} with these settings: {'; '.join(differing)}. Omit them, or "
            "train from random weights without init_from"
        )


def read_start(settings: Settings, progress: Progress = ignore_progress) -> StartingPoint:
    """Read and verify the checkpoint that a run starts from.

    Raises:
        ConfigError: The settings do not fit it.
        CheckpointError: It cannot be read, is damaged or not a checkpoint.
        TokenizerError: Its tokenizer is damaged or not registered.
    """
    path = settings.init_from
    check_start(path, peek_start(path).settings, msgspec.structs.asdict(settings))
    progress(f"reading {Path(path).name}", 0.0)
    try:
        checkpoint = read_checkpoint(path, optimizer_state=False)
    except CheckpointError as error:
        raise CheckpointError(f"init_from: {error}") from None
    absolute = os.fsencode(Path(path).absolute()).decode("utf-8", "replace")  # the name of a folder may be no UTF-8
    origin = Origin(absolute, start_sha256(path), checkpoint.step)
    parameters = with_context(checkpoint.parameters, settings.shape)
    tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
    return StartingPoint(parameters, tokenizer, origin, checkpoint.settings.seq_len)


def with_context(parameters: Parameters, shape: ModelShape) -> Parameters:
    """Return the weights for a shape that differs at most in a shorter context: the first position embeddings."""
    if parameters.shape == shape:
        return parameters
    cut = Parameters(shape)
    for name, tensor in cut.tensors.items():
        tensor[...] = parameters[name][: shape.seq_len] if name == WPE else parameters[name]
    return cut


def context_note(start: StartingPoint) -> str:
    """Return a line about a context that is shorter than that of the file, else ""."""
    own = start.parameters.shape.seq_len
    if own == start.seq_len:
        return ""
    return (
        f"the context is {own:,} tokens, shortened from the {start.seq_len:,} of {Path(start.origin.path).name}; a "
        "longer one (seq_len) takes more time and memory"
    )


def tokenizer_note(start: StartingPoint, text: TokenStream) -> str:
    """Return a line about a tokenizer that splits the training text into very short tokens, else ""."""
    bytes_per_token = text.bytes / max(len(text), 1)
    if bytes_per_token >= MIN_BYTES_PER_TOKEN:
        return ""
    return (
        f"the tokenizer of {Path(start.origin.path).name} does not fit this text: {bytes_per_token:.2f} bytes per "
        "token; a run without init_from trains a tokenizer on it"
    )


def start_sha256(path: str) -> str:
    """Return the digest of the file that a run starts from. Raises CheckpointError if it cannot be read."""
    try:
        with files.open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"init_from: {path}: {files.reason(error)}; name a checkpoint") from None
