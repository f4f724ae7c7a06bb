"""The header of a checkpoint file: what it says, how it is laid out, and how far a stranger's one is trusted.

A checkpoint is a safetensors file: 8 bytes with the length of the header, a JSON header, the tensors' bytes, nothing
else. The header's `__metadata__` begins with its own SHA-256 (of the 8 bytes and the header, with zeros in place of the
digits) and holds the settings, the training state and a SHA-256 for each tensor: every bit of the file is covered.

Which tensors there are, of which shape and where, follows from the settings alone; a header that says otherwise is
refused, before anything is allocated. So overlapping, missing, negative and enormous tensors are one case.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import msgspec
from msgspec import Meta

from gpt_core import files
from gpt_core.config.settings import MAX_COUNT, ModelShape, Settings
from gpt_core.config.validation import check_together
from gpt_core.errors import CheckpointError, ConfigError
from gpt_core.model.parameters import parameter_table
from gpt_core.model.precision import PRECISION

FORMAT = "1"
FIRST_MOMENT, SECOND_MOMENT, TOKENIZER = "adam_m.", "adam_v.", "tokenizer"
MAX_HEADER_BYTES = 16 << 20  # the deepest model allowed needs about 8 MB
MAX_TOKENIZER_BYTES = 64 << 20

_START = b'{"__metadata__":{"header_sha256":"'
_DIGITS = slice(8 + len(_START), 8 + len(_START) + 64)
_ALIGNMENT = 64
_LEAST_ENTRY = 64  # what a tensor takes in the header, at least
_MOST_ENTRY = 256  # and at most, besides its name
_KINDS = {"ckpt_latest": "latest", "best_model": "best", "transformer": "final"}

_Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
_Seconds = Annotated[float, Meta(ge=0.0, le=1e12)]


class TrainingState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a run stands: the plain values, besides weights and moments, that an exact resume needs.

    All numbers are finite. `epoch` counts completed epochs, `window` is the next window of the current one, `tokens`
    counts all targets so far; `loss_sum` and `loss_count` are the current epoch's. `best_accuracy` is -1 until there is
    one. `random_state` is JSON, or "". `finished` is the reason why the run ended, "" while it goes on.
    """

    run_id: Annotated[str, Meta(min_length=1, max_length=64)]
    step: _Count = 0
    epoch: _Count = 0
    window: _Count = 0
    tokens: _Count = 0
    elapsed_s: _Seconds = 0.0
    best_accuracy: Annotated[float, Meta(ge=-1.0, le=1.0)] = -1.0
    best_step: _Count = 0
    epochs_without_improvement: _Count = 0
    loss_sum: float = 0.0
    loss_count: _Count = 0
    skipped_in_a_row: _Count = 0
    evaluation_due: bool = False
    random_state: Annotated[str, Meta(max_length=1 << 20)] = ""
    finished: Annotated[str, Meta(max_length=64)] = ""


class CheckpointInfo(msgspec.Struct, frozen=True):
    """What the header of a checkpoint says. `kind` is latest, epoch, best or final by its name, else "other".

    `size` is in bytes, `saved_at` in seconds since 1970; the hashes are SHA-256 in hexadecimal.
    """

    path: Path
    kind: str
    size: int
    saved_at: float
    settings: Settings
    preset: str
    state: TrainingState
    has_moments: bool
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
    def run_id(self) -> str:
        """The run that saved it."""
        return self.state.run_id


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What safetensors says of one tensor; the offsets count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The facts that stand beside settings and state in the metadata."""

    saved_at: _Seconds
    has_moments: bool
    tokenizer_bytes: Annotated[int, Meta(ge=0, le=MAX_TOKENIZER_BYTES)]
    corpus_sha256: Annotated[str, Meta(max_length=64)]
    preset: Annotated[str, Meta(max_length=64)]


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    """`__metadata__`: safetensors has only strings here, so all but the first two are JSON."""

    header_sha256: str
    gpt_tui_format: str
    settings: str
    state: str
    contents: str
    checksums: str


class _OnlyMetadata(msgspec.Struct):
    """A header of which everything else is skipped."""

    metadata: _Metadata = msgspec.field(name="__metadata__")


# made here, not as a file is read: msgspec may crash where Ctrl+C comes while it makes one
_METADATA = msgspec.json.Decoder(_OnlyMetadata)
_SETTINGS = msgspec.json.Decoder(Settings)
_STATE = msgspec.json.Decoder(TrainingState)
_CONTENTS = msgspec.json.Decoder(Contents)
_CHECKSUMS = msgspec.json.Decoder(dict[str, str])
_ENTRIES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(TensorEntry)


class Header(NamedTuple):
    """A header that was read and found to be in order."""

    info: CheckpointInfo
    layout: dict[str, TensorEntry]
    checksums: dict[str, str]
    data_start: int


def layout_of(shape: ModelShape, has_moments: bool, tokenizer_bytes: int) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint and where it lies: weights, then both moments, then the tokenizer, without gaps."""
    table = parameter_table(shape)
    layout: dict[str, TensorEntry] = {}
    end = 0
    for prefix in ("", FIRST_MOMENT, SECOND_MOMENT) if has_moments else ("",):
        for spec in table:
            start, end = end, end + PRECISION.weights.bytes * spec.size
            layout[prefix + spec.name] = TensorEntry(PRECISION.weights.safetensors, spec.shape, (start, end))
    layout[TOKENIZER] = TensorEntry("U8", (tokenizer_bytes,), (end, end + tokenizer_bytes))
    return layout


def checkpoint_bytes(shape: ModelShape) -> int:
    """About how large a checkpoint with moments will be, in bytes."""
    return layout_of(shape, True, 1 << 16)[TOKENIZER].data_offsets[1] + (1 << 16)


def encode_header(
    settings: Settings,
    state: TrainingState,
    contents: Contents,
    layout: dict[str, TensorEntry],
    checksums: dict[str, str],
) -> bytes:
    """The file's beginning, up to the tensors' bytes. Raises ValueError for values that would not be read back."""
    parts = [msgspec.json.encode(part) for part in (settings, state, contents, checksums)]
    for part, value in zip(parts, (settings, state, contents), strict=False):
        # JSON has no NaN and no infinity: they would come back as something else, or not at all
        if msgspec.json.decode(part, type=type(value)) != value:
            raise ValueError(f"{type(value).__name__} does not survive being written")
    metadata = _Metadata("0" * 64, FORMAT, *(part.decode() for part in parts))
    header = msgspec.json.encode({"__metadata__": metadata, **layout})
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"its header would take {len(header):,} bytes of {MAX_HEADER_BYTES:,}")
    head = bytearray(len(header).to_bytes(8, "little") + header)
    head[_DIGITS] = hashlib.sha256(head).hexdigest().encode()
    return bytes(head)


def read_header(file: io.FileIO, path: Path) -> Header:
    """Reads and checks the header at the beginning of an open file, and that the file is as long as it says.

    Takes time and memory for the header only. Raises CheckpointError.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = _read_head(file, path, size)
    try:
        metadata = _METADATA.decode(memoryview(head)[8:]).metadata
        if metadata.gpt_tui_format != FORMAT:
            raise CheckpointError(
                f"{path}: got checkpoint format {metadata.gpt_tui_format[:20]}, wanted {FORMAT}: "
                "it was written by another version of gpt-tui; use that one"
            )
        settings = _SETTINGS.decode(metadata.settings)
        check_together(settings)
        state = _STATE.decode(metadata.state)
        contents = _CONTENTS.decode(metadata.contents)
        if settings.layers > len(head) // _LEAST_ENTRY:
            raise ValueError(f"it is too short for {settings.layers} layers")
        layout = layout_of(settings.shape, contents.has_moments, contents.tokenizer_bytes)
        checksums = _check_layout(head, metadata, layout, path)
    except (ValueError, RecursionError, ConfigError) as error:
        damaged(path, f"its header makes no sense ({error})")
    wanted = len(head) + layout[TOKENIZER].data_offsets[1]
    if size != wanted:
        damaged(path, f"got {size:,} bytes, wanted {wanted:,}")
    info = CheckpointInfo(
        path=path,
        kind=kind_of(path.name),
        size=size,
        saved_at=contents.saved_at,
        settings=settings,
        preset=contents.preset,
        state=state,
        has_moments=contents.has_moments,
        corpus_sha256=contents.corpus_sha256,
        tokenizer_sha256=checksums[TOKENIZER],
    )
    return Header(info, layout, checksums, len(head))


def peek_checkpoint(path: Path | str) -> CheckpointInfo:
    """What the header says, after it was checked; the tensors are not read. Raises CheckpointError."""
    with open_checkpoint(path) as file:
        return read_header(file, Path(path)).info


def open_checkpoint(path: Path | str) -> io.FileIO:
    """Opens a checkpoint for reading. Raises CheckpointError for what is missing, unreadable or no file."""
    try:
        return files.open_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {files.reason(error)}; name a checkpoint (.safetensors)") from None


def kind_of(name: str) -> str:
    """The kind of checkpoint that has this file name: latest, epoch, best, final or other."""
    stem, _, extension = name.rpartition(".")
    if extension != "safetensors":
        return "other"
    return "epoch" if re.fullmatch(r"epoch_[0-9]{3,15}", stem) else _KINDS.get(stem, "other")


def damaged(path: Path | str, what: str) -> NoReturn:
    """Raises the CheckpointError for a file that is not whole."""
    raise CheckpointError(f"{path} is damaged: {what}; use another checkpoint")


def _read_head(file: io.FileIO, path: Path, size: int) -> bytes:
    """The 8 bytes and the header, once they match the checksum in it."""
    try:
        head = file.read(8) or b""
        length = int.from_bytes(head, "little")
        if size < 8 or length > size - 8:
            damaged(path, f"got {size:,} bytes, which end before its header does")
        if length > MAX_HEADER_BYTES:
            damaged(path, f"its header claims {length:,} bytes of at most {MAX_HEADER_BYTES:,}")
        while len(head) < 8 + length and (more := file.read(8 + length - len(head))):
            head += more
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {files.reason(error)}") from None
    if head[8 : _DIGITS.start] != _START:
        raise CheckpointError(f"{path} is no gpt-tui checkpoint, or its beginning is damaged; use another checkpoint")
    blank = bytearray(head)
    blank[_DIGITS] = b"0" * 64
    if hashlib.sha256(blank).hexdigest().encode() != head[_DIGITS]:
        damaged(path, "its header does not match its checksum")
    return head


def _check_layout(head: bytes, metadata: _Metadata, layout: dict[str, TensorEntry], path: Path) -> dict[str, str]:
    """The checksums, after the tensors in the header were found to be those of the layout.

    What is longer than any such header is refused before it is taken apart: a million names would take seconds. Raises
    CheckpointError and ValueError.
    """
    room = sum(len(name) + _MOST_ENTRY for name in layout)
    text = sum(len(part.encode()) for part in msgspec.structs.astuple(metadata))
    if len(metadata.checksums) > room or len(head) > room + 2 * text + 4096:
        raise ValueError(f"got {len(head):,} bytes for {len(layout)} tensors")
    checksums = _CHECKSUMS.decode(metadata.checksums)
    entries = _ENTRIES.decode(memoryview(head)[8:])
    del entries["__metadata__"]
    if entries.keys() != layout.keys() or checksums.keys() != layout.keys():
        odd = sorted((entries.keys() ^ layout.keys()) | (checksums.keys() ^ layout.keys()))
        damaged(path, f"its tensors are not those of its settings (first: {odd[0][:80]})")
    for name, entry in layout.items():
        got = _ENTRY.decode(entries[name])
        if got != entry:
            shapes = f"got {got.dtype[:10]} {str(got.shape)[:80]} at {got.data_offsets}"
            damaged(path, f"{name}: {shapes}, wanted {entry.dtype} {entry.shape} at {entry.data_offsets}")
    return checksums
