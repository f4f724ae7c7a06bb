"""Import of a model of another program: from a folder or a file to a checkpoint of weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gpt_core import files
from gpt_core.bridges import gguf_import, hf_import
from gpt_core.bridges.huggingface import CONFIG, WEIGHTS
from gpt_core.bridges.source import Chunks, SourceModel, open_source
from gpt_core.errors import CheckpointError, ModelImportError
from gpt_core.formats import gguf
from gpt_core.formats.checkpoint import write_weights
from gpt_core.formats.checkpoint_header import EXTENSION, CheckpointInfo, kind_of, peek_checkpoint
from gpt_core.model.parameters import parameter_count, parameter_table
from gpt_core.progress import Progress, ignore_progress

DEFAULT_NAME = "imported"
_GGUF = ".gguf"
_HUB_MODEL = "models--"  # begins the folder of a model in the hub's cache: models--OWNER--NAME/snapshots/COMMIT
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def import_checkpoint(
    source: Path, output: Path | None = None, models_dir: Path = Path("models"), progress: Progress = ignore_progress
) -> CheckpointInfo:
    """Convert a model to a checkpoint of weights, tensor by tensor.

    Args:
        source: Folder of a Hugging Face model, or a GGUF file.
        output: Checkpoint to create; None for one named after the source in `models_dir`.
        models_dir: Folder for it.
        progress: Receives the activity and its completed fraction.

    Returns:
        The header of the checkpoint.

    Raises:
        ModelImportError: The source cannot be imported, or the output exists or cannot be created. Nothing is written.
        CheckpointError: A weight is not finite. Nothing is left.
        SaveError: The disk is full or faulty. Nothing is left.
        MissingPackageError: The tokenizer needs a package that is not installed.
    """
    progress(f"reading {source.name or source}", 0.0)
    model = read_model(source)
    path = output if output is not None else models_dir / default_name(source)
    check_output(path)
    chunks = _reporting(model, progress, f"importing {source.name or source}")
    try:
        write_weights(path, model.settings, model.tokenizer.to_bytes(), chunks)
    except OSError as error:
        raise files.not_written(path, error, ModelImportError) from error
    return peek_checkpoint(path)


def read_model(source: Path) -> SourceModel:
    """Return the model in a folder or a file, checked except for the values of its weights. Raises ModelImportError."""
    if os.path.isdir(source):
        return hf_import.read_folder(source)
    if not os.path.lexists(source):
        raise ModelImportError(f"{source} does not exist; name the folder of a Hugging Face model, or a GGUF file")
    if source.name == WEIGHTS and os.path.lexists(source.parent / CONFIG):
        return hf_import.read_folder(source.parent)
    with open_source(source) as file:
        begin = file.read(len(gguf.MAGIC))
    if begin == gguf.MAGIC or source.suffix == _GGUF:
        return gguf_import.read_file(source)
    _refuse_file(source)


def default_name(source: Path) -> str:
    """Return the name of the checkpoint of a source: its own, unless checkpoints of runs are named like that.

    In the cache of Hugging Face's hub, folders are named by commit and files link to others named by digest: there the
    name of the model and that of the link are its own.
    """
    place = Path(os.path.abspath(source))
    folder = place.parent if place.name == WEIGHTS else place
    stem = folder.name if folder.is_dir() else folder.stem
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith(_HUB_MODEL):
        stem = folder.parents[1].name.rpartition("--")[2]
    name = f"{stem.lstrip('.') or DEFAULT_NAME}{EXTENSION}"
    return name if kind_of(name) == "other" else f"{DEFAULT_NAME}_{name}"


def check_output(path: Path) -> None:
    """Raise ModelImportError unless a checkpoint can be created at `path`."""
    if path.suffix != EXTENSION:
        raise ModelImportError(f"output: got {path}, expected a name that ends in {EXTENSION}")
    if os.path.lexists(path):
        raise ModelImportError(f"{path} exists already: remove it, or name another output file")


def _refuse_file(path: Path) -> NoReturn:
    """Raise ModelImportError for a file that is not imported, with what to do instead."""
    if path.suffix in _PICKLED:
        raise ModelImportError(
            f"{path} is not read: a pickled file can run code when it is loaded; {hf_import.USE_SAFETENSORS}"
        )
    if path.suffix == ".gob":
        raise ModelImportError(
            f"{path} is not read: models of the Go project cannot be converted; train a new one with `gpt-tui`"
        )
    if path.suffix == EXTENSION:
        try:
            peek_checkpoint(path)
        except CheckpointError:
            raise ModelImportError(f"{path} needs its {CONFIG} and tokenizer: name the folder of the model") from None
        raise ModelImportError(f"{path} is a checkpoint of this program already; use it with `gpt-tui chat --model`")
    raise ModelImportError(
        f"{path} is not a model that can be imported: expected the folder of a Hugging Face model, or a GGUF file"
    )


def _reporting(model: SourceModel, progress: Progress, activity: str) -> Callable[[str], Chunks]:
    """Return the chunks of a model, with progress by the values that were read."""
    total = parameter_count(model.settings.shape)
    sizes = {spec.name: spec.size for spec in parameter_table(model.settings.shape)}
    done = 0

    def chunks(name: str) -> Chunks:
        nonlocal done
        progress(activity, done / total)
        done += sizes[name]
        return model.chunks(name)

    return chunks
