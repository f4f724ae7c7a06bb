"""Checkpoint header: schema, validation, and the tensors that a checkpoint must contain.

A checkpoint is a safetensors file. The `__metadata__` of its header starts with the SHA-256 of the header (of the file
up to the first tensor, with zeros in place of the digits) and holds the settings, the training state and a SHA-256 per
tensor, so checksums cover every bit of the file.

Names, shapes and positions of the tensors follow from the settings. A header that differs is rejected before memory is
allocated for it, so overlapping, missing, negative and oversized tensors are one case.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import msgspec
from msgspec import Meta

from gpt_core import files, run_files
from gpt_core.config.presets import shape_name
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.config.validation import check_together
from gpt_core.errors import CheckpointError, ConfigError, DamagedCheckpointError, NotACheckpointError
from gpt_core.formats import gguf, safetensors
from gpt_core.formats.safetensors import Layout, SafetensorsError
from gpt_core.formats.training_state import Seconds, TrainingState
from gpt_core.model.parameters import parameter_table
from gpt_core.model.precision import PRECISION
from gpt_core.model.scores import EvalScores
from gpt_core.optim import OUTER_MOMENTUM, optimizer_type
from gpt_core.registry import OPTIMIZERS
from gpt_core.tokenizers import tokenizer_names

FORMAT = "1"
EXTENSION = run_files.CHECKPOINT_SUFFIX
TOKENIZER = "tokenizer"
"""Key of the serialized tokenizer, a tensor of bytes."""
TRAINED = "trained"
"""State tensors of a run that averages its weights: the weights that are trained. Its weights are their average."""
MAX_TOKENIZER_BYTES = 64 << 20

SavedState = dict[str, tuple[str, ...]]
"""Parameters that each state tensor of a checkpoint has values of."""

HEADER_RESERVE_BYTES = 1 << 18  # for what settings and state gain during a run: the prompt, scores
HUGGING_FACE_CONFIG = "config.json"  # in the folder of a model
_START = run_files.CHECKPOINT_START
_DIGITS = slice(safetensors.LENGTH_BYTES + len(_START), safetensors.LENGTH_BYTES + len(_START) + 64)
_MIN_ENTRY_BYTES = 64  # of one tensor in the header
_MAX_ENTRY_BYTES = 256  # besides the name of the tensor
_STEMS = {"latest": "ckpt_latest", "best": "best_model", "final": "transformer"}


class CheckpointInfo(msgspec.Struct, frozen=True):
    """Contents of a checkpoint header.

    Attributes:
        path: The file.
        kind: latest, epoch, best or final, by the name of the file; "other" for any other name.
        size: Size of the file in bytes.
        saved_at: Time of the save in seconds since 1970.
        settings: Settings of the run.
        preset: Name of the preset with the shape of the model, "custom" if there is none.
        state: Training state.
        has_optimizer_state: True if the file contains the state of the optimizer, which a resume needs.
        corpus_sha256: SHA-256 of the training text, in hexadecimal.
        tokenizer_sha256: SHA-256 of the serialized tokenizer, in hexadecimal.
    """

    path: Path
    kind: str
    size: int
    saved_at: float
    settings: Settings
    preset: str
    state: TrainingState
    has_optimizer_state: bool
    corpus_sha256: str
    tokenizer_sha256: str

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.state.step

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.state.epoch

    @property
    def scores(self) -> EvalScores | None:
        """Scores of this very step, None if it was not evaluated."""
        return self.state.scores

    @property
    def run_id(self) -> str:
        """Identifier of the run that saved it."""
        return self.state.run_id


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata besides settings and state."""

    saved_at: Seconds
    has_optimizer_state: bool = msgspec.field(name="has_moments")
    tokenizer_bytes: Annotated[int, Meta(ge=0, le=MAX_TOKENIZER_BYTES)]
    corpus_sha256: Annotated[str, Meta(max_length=64)]
    preset: Annotated[str, Meta(max_length=64)]


class _Metadata(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`__metadata__`. Its values are strings, so settings, state, contents and checksums are JSON within JSON.

    `format` is what older versions of `transformers` require; checkpoints of earlier versions do not have it.
    """

    header_sha256: str
    gpt_tui_format: str
    settings: str
    state: str
    contents: str
    checksums: str
    format: str = ""


class _OnlyMetadata(msgspec.Struct):
    """A header without its tensors, which the decoder skips."""

    metadata: _Metadata = msgspec.field(name=safetensors.METADATA)


# Created at import: msgspec can crash if an interrupt arrives while it builds a decoder.
_METADATA = msgspec.json.Decoder(_OnlyMetadata)
_SETTINGS = msgspec.json.Decoder(Settings)
_STATE = msgspec.json.Decoder(TrainingState)
_CONTENTS = msgspec.json.Decoder(Contents)
_CHECKSUMS = msgspec.json.Decoder(dict[str, str])


class Header(NamedTuple):
    """Valid header of a checkpoint file."""

    info: CheckpointInfo
    layout: Layout
    checksums: dict[str, str]
    data_start: int
    """position of the first tensor in the file"""


def tensor_key(state_name: str, parameter: str) -> str:
    """Return the key of an optimizer state tensor, or of a weight if `state_name` is ""."""
    return f"{state_name}.{parameter}" if state_name else parameter


def checkpoint_layout(shape: ModelShape, state: SavedState, tokenizer_bytes: int) -> Layout:
    """Return the layout of a checkpoint: weights, optimizer state, tokenizer."""
    table = parameter_table(shape)
    shapes = {spec.name: spec.shape for spec in table}
    weights, compute = PRECISION.weights.safetensors, PRECISION.compute.safetensors
    return safetensors.layout_of([
        *((spec.name, weights, spec.shape) for spec in table),
        *((tensor_key(name, each), compute, shapes[each]) for name, names in state.items() for each in names),
        (TOKENIZER, "U8", (tokenizer_bytes,)),
    ])  # fmt: skip


def saved_state(settings: Settings, *, has_optimizer_state: bool = True) -> SavedState:
    """Return the state tensors in a checkpoint with these settings: those of the optimizers, and `TRAINED`.

    Raises:
        ConfigError: The optimizer is not registered.
    """
    if not has_optimizer_state:
        return {}
    optimizer, shape = optimizer_type(settings.optimizer), settings.shape
    state = {name: optimizer.state_parameters(name, shape) for name in optimizer.state_names}
    others = {TRAINED: settings.ema > 0, OUTER_MOMENTUM: settings.sync_every_steps > 0}
    return state | {name: tuple(spec.name for spec in parameter_table(shape)) for name, has in others.items() if has}


def checkpoint_bytes(settings: Settings) -> int:
    """Return the approximate size of a checkpoint file in bytes."""
    return safetensors.data_bytes(checkpoint_layout(settings.shape, saved_state(settings), 1 << 16)) + (1 << 16)


def encode_header(
    settings: Settings, state: TrainingState, contents: Contents, layout: Layout, checksums: dict[str, str]
) -> bytes:
    """Return the bytes of a checkpoint up to its first tensor.

    Raises:
        ValueError: A value would not be read back as it is, or the header would be too long.
    """
    for value in (settings, state, contents):
        # JSON has no NaN and no infinity: they would be read back as something else, or not at all
        if msgspec.json.decode(msgspec.json.encode(value), type=type(value)) != value:
            raise ValueError(f"{type(value).__name__} holds a value that JSON cannot represent")
    metadata = _Metadata(
        header_sha256="0" * 64,
        gpt_tui_format=FORMAT,
        settings=msgspec.json.encode(settings).decode(),
        state=msgspec.json.encode(state).decode(),
        contents=msgspec.json.encode(contents).decode(),
        checksums=msgspec.json.encode(checksums).decode(),
        format="pt",
    )
    head = bytearray(safetensors.encode_header(layout, msgspec.structs.asdict(metadata)))
    head[_DIGITS] = hashlib.sha256(head).hexdigest().encode()
    return bytes(head)


def require_savable(settings: Settings) -> None:
    """Check that checkpoints with these settings can have a header: thousands of file names may be too long for it.

    Raises:
        ConfigError: They cannot.
    """
    tensors = saved_state(settings)
    layout = checkpoint_layout(settings.shape, tensors, 0)
    contents = Contents(saved_at=0.0, has_optimizer_state=True, tokenizer_bytes=0, corpus_sha256="", preset="")
    checksums = dict.fromkeys(layout, "0" * 64)
    try:
        size = len(encode_header(settings, TrainingState(run_id="0"), contents, layout, checksums))
    except SafetensorsError:
        size = safetensors.MAX_HEADER_BYTES
    if size + HEADER_RESERVE_BYTES > safetensors.MAX_HEADER_BYTES:
        sizes = {name: len(msgspec.json.encode(getattr(settings, name))) for name in settings.__struct_fields__}
        longest = max(sizes, key=sizes.__getitem__)
        remedy = "name the folder or a pattern instead" if longest in ("train_file", "eval_file") else "shorten it"
        raise ConfigError(
            f"{longest}: got {sizes[longest]:,} bytes, which is too long for the header of a checkpoint "
            f"({safetensors.MAX_HEADER_BYTES:,} bytes in all); {remedy}"
        )


def read_header(file: io.FileIO, path: Path) -> Header:
    """Read and validate the header of an open checkpoint, and the length of the file.

    Takes time and memory for the header alone.

    Raises:
        NotACheckpointError: The file was not saved by this program.
        CheckpointError: The file is damaged, of another version, or of a tokenizer or optimizer that is not registered.
    """
    head = _read_verified(file, path)
    try:
        metadata = _METADATA.decode(memoryview(head)[safetensors.LENGTH_BYTES :]).metadata
        if metadata.gpt_tui_format != FORMAT:
            raise CheckpointError(
                f"{path}: got checkpoint format {metadata.gpt_tui_format[:20]}, expected {FORMAT}: "
                "it was written by another version of gpt-tui; use that one"
            )
        settings = _SETTINGS.decode(metadata.settings)
        _check_registered(settings, path)
        check_together(settings)
        state = _STATE.decode(metadata.state)
        contents = _CONTENTS.decode(metadata.contents)
        if settings.layers > len(head) // _MIN_ENTRY_BYTES:
            raise ValueError(f"it is too short for {settings.layers} layers")
        tensors = saved_state(settings, has_optimizer_state=contents.has_optimizer_state)
        layout = checkpoint_layout(settings.shape, tensors, contents.tokenizer_bytes)
        checksums = _check_layout(head, metadata, layout, path)
    except (ValueError, RecursionError, ConfigError) as error:
        damaged(path, f"its header is invalid ({error})")
    size, expected = file.seek(0, io.SEEK_END), len(head) + safetensors.data_bytes(layout)
    if size != expected:
        damaged(path, f"got {size:,} bytes, expected {expected:,}")
    info = CheckpointInfo(
        path=path,
        kind=kind_of(path.name),
        size=size,
        saved_at=contents.saved_at,
        settings=settings,
        preset=shape_name(settings.shape),
        state=state,
        has_optimizer_state=contents.has_optimizer_state,
        corpus_sha256=contents.corpus_sha256,
        tokenizer_sha256=checksums[TOKENIZER],
    )
    return Header(info, layout, checksums, len(head))


def _check_registered(settings: Settings, path: Path) -> None:
    """Raise CheckpointError for a tokenizer or an optimizer of another program that uses this package."""
    for part, name, registered in (
        ("tokenizer", settings.tokenizer, tokenizer_names()),
        ("optimizer", settings.optimizer, OPTIMIZERS.names()),
    ):
        if name not in registered:
            raise CheckpointError(
                f"{path}: its {part} is not registered: got {name[:80]!r}, expected one of {', '.join(registered)}; "
                "load it in a program that registers it"
            )


def peek_checkpoint(path: Path | str) -> CheckpointInfo:
    """Read and validate the header of a checkpoint, without its tensors.

    Raises:
        CheckpointError: The file cannot be read, or its header is invalid.
    """
    with open_checkpoint(path) as file:
        return read_header(file, Path(path)).info


def open_checkpoint(path: Path | str) -> io.FileIO:
    """Open a checkpoint for reading.

    Raises:
        CheckpointError: The file does not exist, cannot be read or is not a regular file.
    """
    try:
        return files.open_regular(path)
    except OSError as error:
        if os.path.isdir(path) and (found := _model_of_another_program(path)):
            raise NotACheckpointError(found) from None
        raise CheckpointError(f"{path}: {files.reason(error)}", f"; name a checkpoint ({EXTENSION})") from None


def checkpoint_name(kind: str, epoch: int = 0) -> str:
    """Return the file name of a checkpoint of this kind: latest, best, final, or epoch, which needs a number.

    Raises:
        KeyError: There is no such kind.
    """
    return (f"epoch_{epoch:03d}" if kind == "epoch" else _STEMS[kind]) + EXTENSION


def kind_of(name: str) -> str:
    """Return the kind of a checkpoint by its file name: latest, epoch, best, final or other."""
    if re.fullmatch(r"epoch_[0-9]{3,15}\.safetensors", name):
        return "epoch"
    return next((kind for kind, stem in _STEMS.items() if name == stem + EXTENSION), "other")


def damaged(path: Path | str, fault: str) -> NoReturn:
    """Raise the error of a damaged file."""
    raise DamagedCheckpointError(f"{path} is damaged: {fault}; use another checkpoint")


def _model_of_another_program(path: Path | str, begin: bytes = b"") -> str:
    """Return that a path is a model in GGUF or of Hugging Face, and how to import it; "" if it is neither.

    Args:
        path: File that begins with `begin`, or a folder.
        begin: First bytes of the file.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    if begin.startswith(gguf.MAGIC):
        kind, source = "a model in GGUF", path
    elif os.path.isfile(os.path.join(folder, HUGGING_FACE_CONFIG)):
        kind, source = "a model of Hugging Face", folder
    else:
        return ""
    return f"{path} is {kind}, expected a checkpoint; import it first: gpt-tui import {shlex.quote(str(source))}"


def _read_verified(file: io.FileIO, path: Path) -> bytes:
    """Return the file up to its first tensor, after its checksum was verified."""
    try:
        begin = file.read(_DIGITS.start)
        if not _START.startswith(begin[safetensors.LENGTH_BYTES :]):  # that of a truncated checkpoint may be shorter
            raise NotACheckpointError(
                _model_of_another_program(path, begin)
                or f"{path} is not a gpt-tui checkpoint; name a {EXTENSION} file that gpt-tui has saved"
            )
        head = safetensors.read_header(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {files.reason(error)}") from None
    except SafetensorsError as error:
        damaged(path, str(error))
    blank = bytearray(head)
    blank[_DIGITS] = b"0" * 64
    if hashlib.sha256(blank).hexdigest().encode() != head[_DIGITS]:
        damaged(path, "its header does not match its checksum")
    return head


def _check_layout(head: bytes, metadata: _Metadata, layout: Layout, path: Path) -> dict[str, str]:
    """Return the checksums of the tensors, after the entries in the header were compared with the layout.

    A header that is longer than any with this layout is rejected before its entries are decoded: a million names would
    take seconds.

    Raises:
        CheckpointError: The tensors are not those of the layout.
        ValueError: The header is too long or not valid.
    """
    max_bytes = sum(len(name) + _MAX_ENTRY_BYTES for name in layout)
    metadata_bytes = sum(len(part.encode()) for part in msgspec.structs.astuple(metadata))
    if len(metadata.checksums) > max_bytes or len(head) > max_bytes + 2 * metadata_bytes + 4096:
        raise ValueError(f"got {len(head):,} bytes for {len(layout)} tensors")
    checksums = _CHECKSUMS.decode(metadata.checksums)
    entries = safetensors.decode_layout(head)
    if entries.keys() != layout.keys() or checksums.keys() != layout.keys():
        odd = sorted((entries.keys() ^ layout.keys()) | (checksums.keys() ^ layout.keys()))
        damaged(path, f"its tensors are not those of its settings (first: {odd[0][:80]})")
    for name, entry in layout.items():
        got = entries[name]
        if got != entry:
            found = f"got {got.dtype[:10]} {str(got.shape)[:80]} at {got.data_offsets}"
            damaged(path, f"{name}: {found}, expected {entry.dtype} {entry.shape} at {entry.data_offsets}")
    return checksums
