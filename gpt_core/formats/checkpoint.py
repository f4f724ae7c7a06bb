"""Checkpoints: everything an exact resume needs in one file, written as a whole and checked to the last bit when read.

`checkpoint_header` describes the file. Saving hashes and writes the tensors where they lie, reading fills new ones in
place: neither takes memory besides the model's own and a buffer of a megabyte. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core import files
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.errors import CheckpointError, SaveError
from gpt_core.formats.checkpoint_header import (
    FIRST_MOMENT,
    SECOND_MOMENT,
    TOKENIZER,
    CheckpointInfo,
    Contents,
    Header,
    TrainingState,
    checkpoint_bytes,
    damaged,
    encode_header,
    layout_of,
    open_checkpoint,
    peek_checkpoint,
    read_header,
)
from gpt_core.model.parameters import Parameters

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "TrainingState",
    "checkpoint_bytes",
    "new_run_id",
    "peek_checkpoint",
    "read_checkpoint",
    "verify_checkpoint",
    "write_checkpoint",
]

_CHUNK = 1 << 20  # bytes that are hashed and looked through while they are in the cache; a multiple of 4


class Checkpoint(NamedTuple):
    """A run at a step boundary. `moments` are AdamW's first and second, None where they were left out."""

    settings: Settings
    preset: str
    state: TrainingState
    tokenizer: bytes
    corpus_sha256: str
    parameters: Parameters
    moments: tuple[Parameters, Parameters] | None


def new_run_id() -> str:
    """A name for a new run, which no other run has."""
    return secrets.token_hex(8)


def write_checkpoint(
    path: Path | str,
    checkpoint: Checkpoint,
    *,
    saved_at: float | None = None,
    when_read: Callable[[], None] | None = None,
) -> None:
    """Makes `path` hold the checkpoint; when this returns, it is on disk. `saved_at` is the time to note, now if None.

    Raises SaveError, and leaves the file that was there as it was, if it cannot be written or if a weight or moment is
    not finite. The tensors must not change until `when_read` is called, which is before the file is synced, or until
    this returns.
    """
    path = Path(path)
    settings, state = checkpoint.settings, checkpoint.state
    contents = Contents(
        saved_at=time.time() if saved_at is None else saved_at,
        has_moments=checkpoint.moments is not None,
        tokenizer_bytes=len(checkpoint.tokenizer),
        corpus_sha256=checkpoint.corpus_sha256,
        preset=checkpoint.preset,
    )
    layout = layout_of(settings.shape, contents.has_moments, contents.tokenizer_bytes)
    try:
        arrays = _arrays(checkpoint)
        checksums = {name: _checksum(name, arrays[name], layout[name].dtype == "F32") for name in layout}
        head = encode_header(settings, state, contents, layout, checksums)
        files.replace_file(path, _chunks(head, (arrays[name].data for name in layout), when_read))
    except (OSError, ValueError) as error:
        raise SaveError(f"{path} was not saved: {files.reason(error)}; what was there before is untouched") from error


def read_checkpoint(path: Path | str, *, moments: bool = True) -> Checkpoint:
    """Reads a checkpoint and checks all that it reads; without `moments` they are neither read nor checked.

    Raises CheckpointError. Memory is taken only once the file is known to be as long as its header says.
    """
    path = Path(path)
    with open_checkpoint(path) as file:
        header = read_header(file, path)
        info = header.info
        tokenizer = np.empty(header.layout[TOKENIZER].shape, np.uint8)

        def read(prefix: str) -> Parameters:
            into = _new_parameters(path, info.settings.shape)
            for name, tensor in into.tensors.items():
                _read_tensor(file, header, prefix + name, _bytes_of(tensor))
            return into

        parameters = read("")
        both = (read(FIRST_MOMENT), read(SECOND_MOMENT)) if moments and info.has_moments else None
        _read_tensor(file, header, TOKENIZER, tokenizer)
    return Checkpoint(
        info.settings, info.preset, info.state, tokenizer.tobytes(), info.corpus_sha256, parameters, both
    )  # fmt: skip


def verify_checkpoint(
    path: Path | str, *, moments: bool = True, progress: Callable[[float], None] | None = None
) -> CheckpointInfo:
    """Reads a checkpoint through, in little memory, and says what it holds if it is whole.

    Whole means: of the right length, every tensor with the shape that the settings call for, its checksum and only
    finite values, the tokenizer with its hash, the header with its checksum. Raises CheckpointError. Without `moments`
    all but these are checked, which is what generating text needs. `progress` is told, before each tensor, which share
    of the file is done; what it raises ends the reading.
    """
    path = Path(path)
    with open_checkpoint(path) as file:
        header = read_header(file, path)
        for name, entry in header.layout.items():
            if progress is not None:
                progress((header.data_start + entry.data_offsets[0]) / header.info.size)
            if moments or not name.startswith((FIRST_MOMENT, SECOND_MOMENT)):
                _read_tensor(file, header, name, None)
    return header.info


def _arrays(checkpoint: Checkpoint) -> dict[str, NDArray[np.uint8]]:
    """The bytes of every tensor, where they lie. Raises ValueError if a shape is not the settings'."""
    sets = {"": checkpoint.parameters}
    if checkpoint.moments:
        sets |= {FIRST_MOMENT: checkpoint.moments[0], SECOND_MOMENT: checkpoint.moments[1]}
    if any(parameters.shape != checkpoint.settings.shape for parameters in sets.values()):
        raise ValueError("its tensors are of another shape than its settings")
    arrays = {
        prefix + name: _bytes_of(tensor)
        for prefix, parameters in sets.items()
        for name, tensor in parameters.tensors.items()
    }
    arrays[TOKENIZER] = np.frombuffer(checkpoint.tokenizer, np.uint8)
    return arrays


def _chunks(
    head: bytes, tensors: Iterable[memoryview], when_read: Callable[[], None] | None
) -> Iterator[bytes | memoryview]:
    """The parts of a file in order; each is written before the next one is asked for."""
    yield head
    yield from tensors
    if when_read is not None:
        when_read()


def _checksum(name: str, array: NDArray[np.uint8], is_float: bool) -> str:
    """SHA-256 of an array's bytes. Raises ValueError if it holds floats that are not finite."""
    digest = hashlib.sha256()
    for start in range(0, array.size, _CHUNK):
        piece = array[start : start + _CHUNK]
        digest.update(piece.data)
        if is_float and not _is_finite(piece):
            raise ValueError(f"{name} holds values that are not finite")
    return digest.hexdigest()


def _read_tensor(file: io.FileIO, header: Header, name: str, into: NDArray[np.uint8] | None) -> None:
    """Reads one tensor into an array, or nowhere, and checks it. Raises CheckpointError."""
    path, entry = header.info.path, header.layout[name]
    start, stop = entry.data_offsets
    buffer = np.empty(min(_CHUNK, stop - start), np.uint8) if into is None else into
    digest = hashlib.sha256()
    finite = True
    try:
        file.seek(header.data_start + start)
        for at in range(0, stop - start, _CHUNK):
            length = min(_CHUNK, stop - start - at)
            piece = buffer[:length] if into is None else buffer[at : at + length]
            if not _fill(file, piece):
                damaged(path, f"{name} ends before it should: the file was cut while it was read")
            digest.update(piece.data)
            finite = finite and (entry.dtype != "F32" or _is_finite(piece))
    except OSError as error:
        raise CheckpointError(f"{path}: {name} cannot be read: {files.reason(error)}") from None
    if digest.hexdigest() != header.checksums[name]:
        damaged(path, f"{name} does not match its checksum")
    if not finite:
        damaged(path, f"{name} holds values that are not finite")


def _fill(file: io.FileIO, piece: NDArray[np.uint8]) -> bool:
    """Reads until the piece is full; False at the end of the file."""
    view = piece.data
    while view:
        count = file.readinto(view)
        if not count:
            return False
        view = view[count:]
    return True


def _is_finite(piece: NDArray[np.uint8]) -> bool:
    return bool(np.isfinite(piece.view(np.float32)).all())


def _bytes_of(tensor: NDArray[np.float32]) -> NDArray[np.uint8]:
    return tensor.reshape(-1).view(np.uint8)


def _new_parameters(path: Path, shape: ModelShape) -> Parameters:
    try:
        return Parameters(shape)
    except MemoryError:
        raise CheckpointError(f"{path}: this machine has not the memory for its tensors") from None
