"""Codec of the GGUF format, which llama.cpp reads: header, number types, bounded reading. Knows nothing of models.

A GGUF file is a header and the bytes of the tensors. The header holds typed values by key (`general.architecture`,
`tokenizer.ggml.tokens`), and the name, dimensions, number type and position of each tensor. Dimensions are listed from
the innermost one, in the opposite order of NumPy's shapes. All numbers are little-endian.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes the format.

The `gguf` package is not used: it writes in place, and depends on packages that nothing here needs.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import Array, widened

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # of the first tensor in the file, and of each tensor after it
MAX_ALIGNMENT = 1 << 16
MAX_HEADER_BYTES = 256 << 20
MAX_DIMENSIONS = 4
MAX_ITEMS = 1 << 21  # of an array: more than any vocabulary has
BLOCK = 32  # values of a Q8_0 block: one float16 scale and 32 int8
CHUNK_VALUES = 1 << 20  # converted at once
BUFFER_BYTES = 1 << 16  # of the header, read at once

Value: TypeAlias = bool | int | float | str | Sequence[int] | Sequence[str]
"""Value of a key. They are written as bool, uint32, float32, string, array of int32 and array of string."""

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class GgufError(ValueError):
    """The file is not a GGUF file, it is damaged, or it uses a type that is not supported."""


class NumberType(NamedTuple):
    """Number type of a tensor: its code in the file, and the bytes of a block of values."""

    code: int
    block_values: int
    block_bytes: int


NUMBER_TYPES = {
    "f32": NumberType(0, 1, 4),
    "f16": NumberType(1, 1, 2),
    "q8_0": NumberType(8, BLOCK, 34),
    "bf16": NumberType(30, 1, 2),
}


class Tensor(NamedTuple):
    """A tensor to write: its values, with rows as the file holds them, and the name of its number type."""

    name: str
    values: Array
    number_type: str

    @property
    def bytes(self) -> int:
        """Bytes in the file, without padding."""
        return tensor_bytes(self.values.shape, self.number_type)


class TensorInfo(NamedTuple):
    """Header entry of a tensor; the offset is counted from the end of the header."""

    shape: tuple[int, ...]
    number_type: str
    offset: int


class Header(NamedTuple):
    """Header of a file: its values by key, its tensors by name, and the position of the first tensor."""

    values: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data_start: int


def tensor_bytes(shape: Sequence[int], number_type: str) -> int:
    """Return the bytes of a tensor whose rows are complete blocks."""
    kind = NUMBER_TYPES[number_type]
    return math.prod(shape) // kind.block_values * kind.block_bytes


# -- writing


def encode(values: Mapping[str, Value], tensors: Sequence[Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file, in parts of bounded size."""
    yield _encode_header(values, tensors)
    for tensor in tensors:
        yield from encode_values(tensor.values, tensor.number_type)
        yield _padding(tensor.bytes)


def encode_values(values: Array, number_type: str) -> Iterator[memoryview]:
    """Yield the bytes of a tensor; memory is bounded, except for rows of a million values or more."""
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, CHUNK_VALUES // rows.shape[1])
    for first in range(0, len(rows), step):
        chunk = np.ascontiguousarray(rows[first : first + step], dtype=np.float32)
        yield _ENCODERS[number_type](chunk).reshape(-1).view(np.uint8).data


def _encode_header(values: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(values))]
    for key, value in values.items():
        parts += [_string(key), _typed(value)]
    offset = 0
    for tensor in tensors:
        shape = tensor.values.shape
        parts += [_string(tensor.name), struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))]
        parts.append(struct.pack("<IQ", NUMBER_TYPES[tensor.number_type].code, offset))
        offset += tensor.bytes + len(_padding(tensor.bytes))
    header = b"".join(parts)
    return header + _padding(len(header))


def _padding(length: int) -> bytes:
    return b"\0" * (-length % ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    """Return the type and the bytes of a value."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    strings = [item for item in value if isinstance(item, str)]
    if len(strings) == len(value):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, strings))
    return struct.pack("<IIQ", _ARRAY, _INT32, len(value)) + np.array(value, "<i4").tobytes()


def _to_float16(chunk: Array) -> NDArray[Any]:
    return chunk.astype("<f2")


def _to_bfloat16(chunk: Array) -> NDArray[Any]:
    """Return the upper halves of the values, rounded to nearest."""
    bits = chunk.view(np.uint32)
    halves: NDArray[Any] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    return halves


def _to_q8_0(chunk: Array) -> NDArray[Any]:
    """Return blocks of 32 values as scale = max |values| / 127 in float16, and values / scale rounded to integers."""
    values = chunk.reshape(-1, BLOCK)
    scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    quotients = values * np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    blocks = np.empty(len(values), dtype=[("scale", "<f2"), ("integers", "i1", BLOCK)])
    blocks["scale"] = scales[:, 0]
    blocks["integers"] = np.trunc(quotients + np.copysign(np.float32(0.5), quotients))
    return blocks


_ENCODERS = {"f32": lambda chunk: chunk, "f16": _to_float16, "bf16": _to_bfloat16, "q8_0": _to_q8_0}


# -- reading


def read_header(file: io.FileIO) -> Header:
    """Read the header of a file, in time and memory for the header alone.

    Raises:
        GgufError: The file is not a GGUF file, it is damaged, a tensor has a type that is not supported, or tensors
            overlap or are not aligned.
        OSError: The file cannot be read.
    """
    source = _Source(file)
    if source.take(len(MAGIC)) != MAGIC:
        raise GgufError("it does not begin with GGUF")
    version = source.number("<I")
    if version not in (2, 3):
        raise GgufError(f"got version {version}, expected {VERSION}")
    tensor_count, value_count = source.number("<Q"), source.number("<Q")
    values: dict[str, Any] = {}
    for _ in range(value_count):
        key = source.string()
        values[key] = source.value(source.number("<I"))
    alignment = values.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT:
        raise GgufError(f"got alignment {str(alignment)[:20]}, expected 1 to {MAX_ALIGNMENT:,}")
    tensors: dict[str, TensorInfo] = {}
    for _ in range(tensor_count):
        name = source.string()
        if name in tensors:
            raise GgufError(f"tensor {name[:80]!r} occurs twice")
        tensors[name] = source.tensor_info(name)
    data_start = source.position + -source.position % alignment
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: item[1].offset):
        if info.offset < end or info.offset % alignment:
            raise GgufError(
                f"tensor {name[:80]!r}: got offset {info.offset:,}, expected a multiple of {alignment} from {end:,} on"
            )
        end = info.offset + tensor_bytes(info.shape, info.number_type)
        if data_start + end > source.file_bytes:
            raise GgufError(f"got {source.file_bytes:,} bytes, but tensor {name[:80]!r} ends at {data_start + end:,}")
    return Header(values, tensors, data_start)


def read_tensor(file: io.FileIO, header: Header, name: str, out: Array) -> None:
    """Read a tensor into an array of its shape, which need not be contiguous; convert it to float32.

    Raises:
        GgufError: The tensor is missing, has another shape, or the file was truncated meanwhile.
        OSError: The file cannot be read.
    """
    info = header.tensors.get(name)
    if info is None:
        raise GgufError(f"tensor {name} is missing")
    if info.shape != out.shape:
        raise GgufError(f"tensor {name}: got shape {info.shape}, expected {out.shape}")
    rows = out if out.ndim == 2 else out.reshape(1, -1)
    first = 0
    for part in tensor_rows(file, header, name):
        rows[first : first + len(part)] = part
        first += len(part)


def tensor_rows(file: io.FileIO, header: Header, name: str) -> Iterator[Array]:
    """Yield the rows of a tensor of the header in blocks, converted to float32. Shape of a block: (rows, columns).

    A vector has one row.

    Raises:
        GgufError: The file was truncated meanwhile.
        OSError: The file cannot be read.
    """
    info = header.tensors[name]
    columns = info.shape[-1]
    rows = math.prod(info.shape[:-1])
    step = max(1, CHUNK_VALUES // columns)
    file.seek(header.data_start + info.offset)
    for first in range(0, rows, step):
        shape = (min(step, rows - first), columns)
        data = _read(file, tensor_bytes(shape, info.number_type))
        yield _DECODERS[info.number_type](data).reshape(shape)


class _Source:
    """Reads values from the beginning of a file, at most MAX_HEADER_BYTES and never past its end."""

    def __init__(self, file: io.FileIO) -> None:
        self.file_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._file = file
        self._buffer = memoryview(b"")
        self.position = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        self._require(count)
        if count > len(self._buffer):
            missing = max(count - len(self._buffer), min(BUFFER_BYTES, self.file_bytes - self._file.tell()))
            self._buffer = memoryview(bytes(self._buffer) + _read(self._file, missing))
        data, self._buffer = bytes(self._buffer[:count]), self._buffer[count:]
        self.position += count
        return data

    def number(self, layout: str) -> Any:
        """Return the next number of a layout of `struct`."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def string(self) -> str:
        """Return the next string."""
        try:
            return self.take(self.number("<Q")).decode()
        except UnicodeDecodeError:
            raise GgufError("it has a string that is not UTF-8") from None

    def value(self, code: int) -> Any:
        """Return the next value of a type."""
        if code == _STRING:
            return self.string()
        if code in _SCALARS:
            return self.number(_SCALARS[code])
        if code != _ARRAY:
            raise GgufError(f"got value type {code}, expected 0 to 12")
        item_code, count = self.number("<I"), self.number("<Q")
        if item_code != _STRING and item_code not in _SCALARS:
            raise GgufError(f"got an array of type {item_code}, expected numbers or strings")
        layout = np.dtype(_SCALARS.get(item_code, "<u8"))  # a string begins with its length
        self._require(layout.itemsize * count)
        if count > MAX_ITEMS:
            raise GgufError(f"got an array of {count:,} items, expected at most {MAX_ITEMS:,}")
        if item_code == _STRING:
            return [self.string() for _ in range(count)]
        return np.frombuffer(self.take(layout.itemsize * count), layout).tolist()

    def tensor_info(self, name: str) -> TensorInfo:
        """Return the next entry of a tensor, after its name."""
        dimensions = self.number("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise GgufError(f"tensor {name[:80]!r}: got {dimensions} dimensions")
        shape = tuple(reversed(struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))))
        code, offset = self.number("<I"), self.number("<Q")
        number_type = next((key for key, kind in NUMBER_TYPES.items() if kind.code == code), None)
        if number_type is None:
            raise GgufError(f"tensor {name[:80]!r}: got number type {code}, expected {', '.join(NUMBER_TYPES)}")
        if 0 in shape or shape[-1] % NUMBER_TYPES[number_type].block_values:
            raise GgufError(f"tensor {name[:80]!r}: got shape {shape} of {number_type}")
        return TensorInfo(shape, number_type, offset)

    def _require(self, count: int) -> None:
        """Raise GgufError unless the header may have `count` more bytes."""
        if self.position + count > min(self.file_bytes, MAX_HEADER_BYTES):
            raise GgufError(f"got {self.file_bytes:,} bytes, which is less than its header takes, or a huge header")


def _read(file: io.FileIO, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        read = file.readinto(view)
        if not read:
            raise GgufError("the file was truncated while it was read")
        view = view[read:]
    return data


def _from_q8_0(data: bytearray) -> Array:
    blocks = np.frombuffer(data, [("scale", "<f2"), ("integers", "i1", BLOCK)])
    with np.errstate(invalid="ignore"):  # 0 times an infinite scale
        values: Array = blocks["integers"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]
    return values


_DECODERS = {
    "f32": lambda data: np.frombuffer(data, "<f4"),
    "f16": lambda data: np.frombuffer(data, "<f2").astype(np.float32),
    "bf16": lambda data: widened(np.frombuffer(data, "<u2")),
    "q8_0": _from_q8_0,
}
