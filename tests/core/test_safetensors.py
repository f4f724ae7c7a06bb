"""The codec of the safetensors format agrees with the library's, and rejects what is not such a file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt_core.files import open_regular
from gpt_core.formats.safetensors import (
    DTYPE_BYTES,
    MAX_HEADER_BYTES,
    SafetensorsError,
    decode_layout,
    encode_header,
    layout_of,
    read_header,
    read_tensor,
    write_file,
)

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(5, dtype=np.int64),
    "empty": np.zeros((0, 3), np.float16),
    "scalar": np.array(7, np.uint8),
}
DTYPES = {"float32": "F32", "int64": "I64", "float16": "F16", "uint8": "U8"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


def write(path: Path) -> None:
    """Write `TENSORS` with the codec."""
    layout = layout_of((name, DTYPES[t.dtype.name], t.shape) for name, t in TENSORS.items())
    head = encode_header(layout, {"format": "pt", "é": "\U0001f600"})
    write_file(path, head, (memoryview(tensor.tobytes()) for tensor in TENSORS.values()))


def read(path: Path) -> dict[str, bytes]:
    """Read all tensors with the codec."""
    found = {}
    with open_regular(path) as file:
        head = read_header(file)
        for name, entry in decode_layout(head).items():
            out = np.empty(entry.size, np.uint8)
            read_tensor(file, len(head), entry, out, lambda chunk: None)
            found[name] = out.tobytes()
    return found


def test_the_library_reads_what_the_codec_writes(path: Path) -> None:
    write(path)
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(np.array_equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_the_codec_reads_what_the_library_writes(path: Path) -> None:
    save_file(TENSORS, path, {"format": "np"})
    assert read(path) == {name: tensor.tobytes() for name, tensor in TENSORS.items()}


def test_the_first_tensor_is_aligned(path: Path) -> None:
    write(path)
    with open_regular(path) as file:
        assert len(read_header(file)) % 64 == 0


def test_reading_in_chunks_gives_every_byte_to_the_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_core.formats.safetensors.CHUNK_BYTES", 8)
    write(path)
    chunks: list[bytes] = []
    with open_regular(path) as file:
        head = read_header(file)
        read_tensor(file, len(head), decode_layout(head)["b"], None, lambda chunk: chunks.append(chunk.tobytes()))
    assert [len(chunk) for chunk in chunks] == [8, 8, 8]
    assert b"".join(chunks) == TENSORS["b"].tobytes()


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(dtype="F33")},
        {"a": entry(shape=(-1, -2))},
        {"a": entry(shape=(3,))},
        {"a": entry(offsets=(0, 9))},
        {"a": entry(offsets=(4, 12))},
        {"a": entry(offsets=(8, 0))},
        {"a": entry(), "b": entry(offsets=(4, 12))},
        {"a": entry(), "b": entry(offsets=(16, 24))},
        {"a": entry(shape=(1 << 40, 1 << 40))},
        {"a": entry(shape=(1,) * 8 + (2,))},
        {"a": entry(shape=(1 << 63, 0), offsets=(0, 0))},
        {"a": {**entry(), "more": 1}},
        {"a": 3},
        [],
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_together_is_rejected(header: object) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(SafetensorsError):
        decode_layout(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize("length", [3, 1 << 20, MAX_HEADER_BYTES + 1, 1 << 63])
def test_a_length_beyond_the_file_or_the_bound_is_rejected_before_reading(path: Path, length: int) -> None:
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", length)[: 8 if length > 3 else 3])
        file.truncate(MAX_HEADER_BYTES + 100 if length == MAX_HEADER_BYTES + 1 else file.tell())
    with open_regular(path) as opened, pytest.raises(SafetensorsError, match="header"):
        read_header(opened)


def test_a_file_truncated_within_a_tensor_is_rejected(path: Path) -> None:
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(SafetensorsError, match="truncated"):
        read(path)


def test_every_item_size_divides_the_chunk() -> None:
    from gpt_core.formats.safetensors import CHUNK_BYTES

    assert all(CHUNK_BYTES % size == 0 for size in DTYPE_BYTES.values())
