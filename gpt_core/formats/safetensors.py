"""Codec of the safetensors format: header, bounded reading, atomic writing. Knows nothing of models or checkpoints.

A safetensors file is 8 bytes with the length of the header (little-endian), a JSON header, and the bytes of the
tensors. The header maps the name of each tensor to its element type, shape and position, and `__metadata__` to a
mapping of strings to strings. https://github.com/huggingface/safetensors describes the format.

The `safetensors` library is not used because it writes without fsync and maps files into memory when it reads: a file
truncated meanwhile would end the process with SIGBUS.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from gpt_core import files

MAX_HEADER_BYTES = 16 << 20
LENGTH_BYTES = 8
METADATA = "__metadata__"
MAX_DIMENSIONS = 8  # of a tensor
ALIGNMENT = 64  # of the first tensor in the file; the header is padded with spaces
CHUNK_BYTES = 1 << 20  # read at once, so that checks of a chunk find it in the CPU cache; a multiple of every item size
DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip


class SafetensorsError(ValueError):
    """The file is not a safetensors file, or it is damaged."""


Length = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Header entry of one tensor. The offsets are in bytes, from the end of the header."""

    dtype: str
    shape: Annotated[tuple[Length, ...], Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[Length, Length]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.data_offsets[1] - self.data_offsets[0]


Layout = dict[str, TensorEntry]
"""Header entries by tensor name, in the order of the tensors in the file."""

# Created at import: msgspec can crash if an interrupt arrives while it builds a decoder.
_RAW_ENTRIES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(TensorEntry)


def layout_of(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> Layout:
    """Return the layout of tensors stored one after the other.

    Args:
        tensors: Name, element type (a key of `DTYPE_BYTES`) and shape of each tensor.
    """
    layout: Layout = {}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + DTYPE_BYTES[dtype] * math.prod(shape)
        layout[name] = TensorEntry(dtype, shape, (start, end))
    return layout


def data_bytes(layout: Layout) -> int:
    """Return the bytes of all tensors, for a layout without gaps."""
    return max((entry.data_offsets[1] for entry in layout.values()), default=0)


def encode_header(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file up to its first tensor. The metadata comes first in the header.

    Raises:
        SafetensorsError: The header would be longer than `MAX_HEADER_BYTES`.
    """
    header = msgspec.json.encode({METADATA: metadata, **layout})
    header += b" " * (-(LENGTH_BYTES + len(header)) % ALIGNMENT)
    if len(header) > MAX_HEADER_BYTES:
        raise SafetensorsError(f"header of {len(header):,} bytes, expected at most {MAX_HEADER_BYTES:,}")
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def read_header(file: io.FileIO) -> bytes:
    """Read the length and the header from the beginning of a file, in time and memory for these alone.

    Raises:
        SafetensorsError: The file ends too early, or the header is longer than `MAX_HEADER_BYTES`.
        OSError: The file cannot be read.
    """
    file_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(LENGTH_BYTES) or b""
    length = int.from_bytes(head, "little")
    if file_bytes < LENGTH_BYTES or length > file_bytes - LENGTH_BYTES:
        raise SafetensorsError(f"got {file_bytes:,} bytes, which is less than its header takes")
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(f"got a header of {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}")
    while len(head) < LENGTH_BYTES + length and (more := file.read(LENGTH_BYTES + length - len(head))):
        head += more
    if len(head) < LENGTH_BYTES + length:
        raise SafetensorsError("the file was truncated while it was read")
    return head


def decode_layout(head: bytes) -> Layout:
    """Return the entries of a header as `read_header` gives it, in the order of their positions.

    Raises:
        SafetensorsError: The header is not valid JSON of this form, an element type is unknown, a size does not match
            its shape, or tensors overlap or leave gaps.
    """
    try:
        raw = _RAW_ENTRIES.decode(memoryview(head)[LENGTH_BYTES:])
        raw.pop(METADATA, None)
        entries = sorted(((name, _ENTRY.decode(entry)) for name, entry in raw.items()), key=_position)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SafetensorsError(f"its header is invalid ({error})") from None
    end = 0
    for name, entry in entries:
        start, stop = entry.data_offsets
        item_bytes = DTYPE_BYTES.get(entry.dtype)
        if item_bytes is None:
            raise SafetensorsError(f"{name[:80]}: got {entry.dtype[:10]} of shape {str(entry.shape)[:80]}")
        if start != end or stop - start != item_bytes * math.prod(entry.shape):
            raise SafetensorsError(
                f"{name[:80]}: got offsets {str(entry.data_offsets)[:80]}, expected {str(entry.shape)[:80]} at {end}"
            )
        end = stop
    return dict(entries)


def write_file(
    path: Path,
    head: bytes,
    tensors: Iterable[memoryview],
    when_read: Callable[[], None] | None = None,
) -> None:
    """Replace `path` by a file of this header and these tensors, atomically; on return it is on disk.

    Args:
        path: File to create or to replace.
        head: Header from `encode_header`.
        tensors: Bytes of each tensor, in the order of the layout. They are not copied.
        when_read: Called once the tensors are written, before fsync: they may change from then on.

    Raises:
        OSError: The file cannot be written; a file that existed is unchanged.
    """

    def chunks() -> Iterator[bytes | memoryview]:
        yield head
        yield from tensors
        if when_read is not None:
            when_read()

    files.replace_file(path, chunks())


def read_tensor(
    file: io.FileIO,
    data_start: int,
    entry: TensorEntry,
    out: NDArray[np.uint8] | None,
    check: Callable[[NDArray[np.uint8]], None],
) -> None:
    """Read one tensor in chunks of `CHUNK_BYTES`.

    Args:
        file: Open file.
        data_start: Position of the first tensor in the file: the length of the header as `read_header` gives it.
        entry: Entry of the tensor.
        out: Array of the size of the tensor to read into; None to read into a buffer that is reused.
        check: Called with each chunk; what it raises ends the reading.

    Raises:
        SafetensorsError: The file ends within the tensor.
        OSError: The file cannot be read.
    """
    if out is None:
        for chunk in tensor_chunks(file, data_start, entry):
            check(chunk)
        return
    file.seek(data_start + entry.data_offsets[0])
    for start in range(0, entry.size, CHUNK_BYTES):
        chunk = out[start : min(start + CHUNK_BYTES, entry.size)]
        _fill(file, chunk)
        check(chunk)


def tensor_chunks(file: io.FileIO, data_start: int, entry: TensorEntry) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of one tensor in chunks of at most `CHUNK_BYTES`, each in the same buffer.

    Args:
        file: Open file.
        data_start: As in `read_tensor`.
        entry: Entry of the tensor.

    Raises:
        SafetensorsError: The file ends within the tensor.
        OSError: The file cannot be read.
    """
    buffer = np.empty(min(CHUNK_BYTES, entry.size), np.uint8)
    file.seek(data_start + entry.data_offsets[0])
    for start in range(0, entry.size, CHUNK_BYTES):
        chunk = buffer[: min(CHUNK_BYTES, entry.size - start)]
        _fill(file, chunk)
        yield chunk


def _fill(file: io.FileIO, chunk: NDArray[np.uint8]) -> None:
    view = chunk.data
    while view:
        count = file.readinto(view)
        if not count:
            raise SafetensorsError("the file was truncated while it was read")
        view = view[count:]


def _position(item: tuple[str, TensorEntry]) -> tuple[int, int]:
    return item[1].data_offsets
