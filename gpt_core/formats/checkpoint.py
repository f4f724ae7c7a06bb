"""Checkpoints: all that an exact resume needs in one file, replaced atomically and verified when it is read.

`checkpoint_header` describes the contents, `safetensors` encodes them. Tensors are hashed and written in place, and
read into new ones: neither needs memory beyond them and a buffer of a megabyte. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core import files
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.errors import CheckpointError, ConfigError, SaveError
from gpt_core.formats import safetensors
from gpt_core.formats.checkpoint_header import (
    TOKENIZER,
    CheckpointInfo,
    Contents,
    Header,
    SavedState,
    checkpoint_bytes,
    checkpoint_layout,
    damaged,
    encode_header,
    open_checkpoint,
    peek_checkpoint,
    read_header,
    saved_state,
    tensor_key,
)
from gpt_core.formats.safetensors import SafetensorsError
from gpt_core.formats.training_state import TrainingState, new_run_id
from gpt_core.kernels.arrays import Array
from gpt_core.model.parameters import Parameters
from gpt_core.model.precision import PRECISION, DType
from gpt_core.optim import OptimizerState

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "TrainingState",
    "checkpoint_bytes",
    "new_run_id",
    "peek_checkpoint",
    "read_checkpoint",
    "same_eval_text",
    "verify_checkpoint",
    "write_checkpoint",
    "write_weights",
]


class Checkpoint(NamedTuple):
    """A run at a step boundary.

    Attributes:
        settings: Settings of the run.
        preset: Name of the preset with the shape of the model, "custom" if there is none.
        state: Training state.
        tokenizer: Serialized tokenizer.
        corpus_sha256: SHA-256 of the training text, in hexadecimal.
        parameters: Weights; of a run that averages them (`ema`), the average.
        optimizer_state: State tensors of the optimizer; under `TRAINED` the weights that are trained, where the
            weights are an average; under `OUTER_MOMENTUM` the state of an outer optimizer, where the run has one. None
            if they were left out.
        path: File that it was read from; None for one that was not read from a file.
    """

    settings: Settings
    preset: str
    state: TrainingState
    tokenizer: bytes
    corpus_sha256: str
    parameters: Parameters
    optimizer_state: OptimizerState | None
    path: Path | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.state.step

    @property
    def run_id(self) -> str:
        """Identifier of the run."""
        return self.state.run_id


def same_eval_text(left: Checkpoint | CheckpointInfo, right: Checkpoint | CheckpointInfo) -> bool:
    """Return True if the scores of two checkpoints are of the same part of the same eval text.

    Checkpoints of earlier versions do not have its digest; then the settings and the training text are compared.
    """
    if left.state.eval_windows != right.state.eval_windows:
        return False
    if left.state.eval_sha256 and right.state.eval_sha256:
        return left.state.eval_sha256 == right.state.eval_sha256
    if left.settings.eval_file != right.settings.eval_file:
        return False
    if left.settings.eval_file:
        return True
    same_part = left.corpus_sha256 == right.corpus_sha256 and left.settings.val_frac == right.settings.val_frac
    return same_part and all(
        getattr(left.settings, name) == getattr(right.settings, name) for name in ("train_file", "synthetic_text")
    )


def write_checkpoint(
    path: Path | str,
    checkpoint: Checkpoint,
    *,
    saved_at: float | None = None,
    when_read: Callable[[], None] | None = None,
) -> None:
    """Replace `path` by the checkpoint, atomically; on return it is on disk.

    The tensors must not change until `when_read` is called, or until this returns.

    Args:
        path: File to create or to replace.
        checkpoint: What to save.
        saved_at: Time to store, in seconds since 1970; now if None.
        when_read: Called once the tensors are written, before fsync.

    Raises:
        SaveError: The file cannot be written, or a tensor has a value that is not finite. A file that existed is
            unchanged.
    """
    path = Path(path)
    settings, state = checkpoint.settings, checkpoint.state
    contents = Contents(
        saved_at=time.time() if saved_at is None else saved_at,
        has_optimizer_state=checkpoint.optimizer_state is not None,
        tokenizer_bytes=len(checkpoint.tokenizer),
        corpus_sha256=checkpoint.corpus_sha256,
        preset=checkpoint.preset,
    )
    try:
        tensors = saved_state(settings, has_optimizer_state=contents.has_optimizer_state)
        layout = checkpoint_layout(settings.shape, tensors, contents.tokenizer_bytes)
        arrays = _tensor_bytes(checkpoint, tensors)
        checksums = {name: _checksum(name, arrays[name], layout[name].dtype == "F32") for name in layout}
        head = encode_header(settings, state, contents, layout, checksums)
        safetensors.write_file(path, head, (arrays[name].data for name in layout), when_read)
    except (OSError, ValueError, ConfigError) as error:
        fault = str(error) if isinstance(error, ConfigError) else files.reason(error)
        unchanged = "; the previous file is unchanged" if files.exists(path) else ""
        raise SaveError(f"{path} was not saved: {fault}{unchanged}") from error


def write_weights(
    path: Path | str, settings: Settings, tokenizer: bytes, chunks: Callable[[str], Iterable[NDArray[np.float32]]]
) -> None:
    """Write a checkpoint of weights that no run here has trained, in memory for one chunk at a time.

    The checksums precede the tensors in the file: they are written last. What `chunks` raises ends the writing.

    Args:
        path: File to create.
        settings: Settings, which give the shape of the model.
        tokenizer: Serialized tokenizer.
        chunks: Returns the values of a parameter in pieces of any size, in order.

    Raises:
        CheckpointError: A tensor has a value that is not finite.
        SaveError: The chunks are not those of the settings.
        OSError: The file exists or cannot be written.
    """
    path = Path(path)
    state, contents = TrainingState(run_id=new_run_id()), Contents(time.time(), False, len(tokenizer), "", "")
    layout = checkpoint_layout(settings.shape, {}, len(tokenizer))
    checksums = dict.fromkeys(layout, "0" * 64)

    def tensors() -> Iterator[bytes | memoryview]:
        yield encode_header(settings, state, contents, layout, checksums)
        for name, entry in layout.items():
            digest, size = hashlib.sha256(), 0
            parts = [np.frombuffer(tokenizer, np.uint8)] if name == TOKENIZER else map(_as_bytes, chunks(name))
            for part in parts:
                if name != TOKENIZER and not _is_finite(part):
                    raise CheckpointError(f"{path} was not saved: {name} holds values that are not finite")
                digest.update(part.data)
                size += part.size
                yield part.data
            if size != entry.size:
                raise ValueError(f"{name}: got {size:,} bytes, expected {entry.size:,}")
            checksums[name] = digest.hexdigest()

    try:
        with files.new_path(path) as temporary:
            files.write_new(temporary, tensors(), lambda: encode_header(settings, state, contents, layout, checksums))
    except ValueError as error:
        raise SaveError(f"{path} was not saved: {error}") from error


def read_checkpoint(path: Path | str, *, optimizer_state: bool = True) -> Checkpoint:
    """Read a checkpoint and verify all that is read, in one pass over the file.

    Memory is allocated once the file is known to be as long as its header says.

    Args:
        path: File to read.
        optimizer_state: False to skip the state of the optimizer, which generating text does not need.

    Raises:
        CheckpointError: The file is damaged, not a checkpoint, or too large for the memory.
    """
    path = Path(path)
    with open_checkpoint(path) as file:
        header = read_header(file, path)
        info = header.info
        tokenizer = np.empty(header.layout[TOKENIZER].shape, np.uint8)

        def read(state_name: str, names: tuple[str, ...] | None = None) -> Parameters:
            dtype = PRECISION.compute if state_name else PRECISION.weights
            out = _new_parameters(path, info.settings.shape, dtype, names)
            for name, tensor in out.tensors.items():
                _read_tensor(file, header, tensor_key(state_name, name), _as_bytes(tensor))
            return out

        parameters = read("")
        state = None
        if optimizer_state and info.has_optimizer_state:
            state = {name: read(name, names) for name, names in saved_state(info.settings).items()}
        _read_tensor(file, header, TOKENIZER, tokenizer)
    return Checkpoint(
        info.settings, info.preset, info.state, tokenizer.tobytes(), info.corpus_sha256, parameters, state, path
    )  # fmt: skip


def verify_checkpoint(
    path: Path | str, *, optimizer_state: bool = True, progress: Callable[[float], None] | None = None
) -> CheckpointInfo:
    """Verify a checkpoint in little memory, and return the contents of its header.

    A valid checkpoint has the length that its header says, a header that matches its checksum, the tensors that its
    settings require, each matching its checksum and finite, and a tokenizer that matches its checksum.

    Args:
        path: File to verify.
        optimizer_state: False to skip the state of the optimizer, which generating text does not need.
        progress: Called before each tensor with the fraction of the file that is done; what it raises ends the reading.

    Raises:
        CheckpointError: The file is damaged or not a checkpoint.
    """
    path = Path(path)
    with open_checkpoint(path) as file:
        header = read_header(file, path)
        states = tuple(f"{name}." for name in saved_state(header.info.settings))
        for name, entry in header.layout.items():
            if progress is not None:
                progress((header.data_start + entry.data_offsets[0]) / header.info.size)
            if optimizer_state or not name.startswith(states):
                _read_tensor(file, header, name, None)
    return header.info


def _tensor_bytes(checkpoint: Checkpoint, expected: SavedState) -> dict[str, NDArray[np.uint8]]:
    """Return the bytes of every tensor, without copying them.

    Raises:
        ValueError: The tensors are not those that the settings require.
    """
    state = checkpoint.optimizer_state or {}
    if tuple(state) != tuple(expected):
        raise ValueError(f"got optimizer state {tuple(state)}, expected {tuple(expected)}")
    tensors = {"": checkpoint.parameters, **state}
    if any(parameters.shape != checkpoint.settings.shape for parameters in tensors.values()):
        raise ValueError("its tensors have another shape than its settings")
    if any(tuple(parameters.tensors) != expected[name] for name, parameters in state.items()):
        raise ValueError("its optimizer state is not of the parameters that its settings require")
    arrays = {
        tensor_key(state_name, name): _as_bytes(tensor)
        for state_name, parameters in tensors.items()
        for name, tensor in parameters.tensors.items()
    }
    arrays[TOKENIZER] = np.frombuffer(checkpoint.tokenizer, np.uint8)
    return arrays


def _checksum(name: str, array: NDArray[np.uint8], is_float: bool) -> str:
    """Return the SHA-256 of an array.

    Raises:
        ValueError: It holds floats that are not finite.
    """
    digest = hashlib.sha256()
    for start in range(0, array.size, safetensors.CHUNK_BYTES):
        chunk = array[start : start + safetensors.CHUNK_BYTES]
        digest.update(chunk.data)
        if is_float and not _is_finite(chunk):
            raise ValueError(f"{name} holds values that are not finite")
    return digest.hexdigest()


def _read_tensor(file: io.FileIO, header: Header, name: str, out: NDArray[np.uint8] | None) -> None:
    """Read one tensor into an array, or discard it, and verify it.

    Raises:
        CheckpointError: The tensor is damaged or cannot be read.
    """
    path, entry = header.info.path, header.layout[name]
    digest = hashlib.sha256()
    finite = True

    def check(chunk: NDArray[np.uint8]) -> None:
        nonlocal finite
        digest.update(chunk.data)
        finite = finite and (entry.dtype != "F32" or _is_finite(chunk))

    try:
        safetensors.read_tensor(file, header.data_start, entry, out, check)
    except SafetensorsError as error:
        damaged(path, f"{name}: {error}")
    except OSError as error:
        raise CheckpointError(f"{path}: {name} cannot be read: {files.reason(error)}") from None
    if digest.hexdigest() != header.checksums[name]:
        damaged(path, f"{name} does not match its checksum")
    if not finite:
        damaged(path, f"{name} holds values that are not finite")


def _is_finite(chunk: NDArray[np.uint8]) -> bool:
    return bool(np.isfinite(chunk.view(np.float32)).all())


def _as_bytes(tensor: Array) -> NDArray[np.uint8]:
    return tensor.reshape(-1).view(np.uint8)


def _new_parameters(path: Path, shape: ModelShape, dtype: DType, names: tuple[str, ...] | None) -> Parameters:
    try:
        return Parameters(shape, dtype, names)
    except MemoryError:
        raise CheckpointError(f"{path}: there is not enough memory for its tensors") from None
