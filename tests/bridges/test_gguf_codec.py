"""GGUF container: round trips, number types, and damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gpt_core import files
from gpt_core.formats import gguf
from gpt_core.formats.gguf import GgufError, Tensor
from gpt_core.kernels.arrays import Array

VALUES: dict[str, gguf.Value] = {
    "general.architecture": "gpt2", "a.flag": True, "a.count": 7, "a.number": 0.5, "texts": ["a", "é\n", ""],
    "numbers": [1, -2, 3],
}  # fmt: skip


def random_matrix(rows: int, columns: int) -> Array:
    values: Array = np.random.default_rng(1).standard_normal((rows, columns), np.float32)
    return values


def written(path: Path, *tensors: Tensor) -> Path:
    path.write_bytes(b"".join(bytes(part) for part in gguf.encode(VALUES, tensors)))
    return path


def test_values_and_tensors_round_trip(tmp_path: Path) -> None:
    matrix, vector = random_matrix(3, 64), random_matrix(1, 5)[0]
    path = written(tmp_path / "file", Tensor("m.weight", matrix.T, "f32"), Tensor("v.bias", vector, "f32"))
    with files.open_regular(path) as file:
        header = gguf.read_header(file)
        assert header.values == VALUES
        assert header.tensors["m.weight"].shape == (64, 3)
        assert header.data_start % 32 == header.tensors["v.bias"].offset % 32 == 0
        turned, out = np.empty((3, 64), np.float32), np.empty(5, np.float32)
        gguf.read_tensor(file, header, "m.weight", turned.T)
        gguf.read_tensor(file, header, "v.bias", out)
    assert np.array_equal(turned, matrix)
    assert np.array_equal(out, vector)


@pytest.mark.parametrize(("number_type", "error"), [("f16", 2.0**-11), ("bf16", 2.0**-8), ("q8_0", 0.51 / 127)])
def test_rounded_numbers_are_within_the_precision_of_their_type(number_type: str, error: float, tmp_path: Path) -> None:
    matrix = random_matrix(40, 64)
    matrix[3] = 0.0
    path = written(tmp_path / "file", Tensor("m", matrix, number_type))
    out = np.empty_like(matrix)
    with files.open_regular(path) as file:
        gguf.read_tensor(file, gguf.read_header(file), "m", out)
    bound = error * (np.abs(matrix).max() if number_type == "q8_0" else np.abs(matrix))
    assert np.all(np.abs(out - matrix) <= bound)
    assert not np.array_equal(out, matrix)


def test_a_tensor_of_several_parts_equals_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix(10, 64)
    complete = b"".join(gguf.encode_values(matrix, "q8_0"))
    monkeypatch.setattr(gguf, "CHUNK_VALUES", 3 * 64)
    parts = list(gguf.encode_values(matrix, "q8_0"))
    assert len(parts) == 4
    assert b"".join(parts) == complete


@pytest.mark.slow
def test_a_file_that_ends_early_is_refused_at_every_length(tmp_path: Path) -> None:
    data = written(tmp_path / "file", Tensor("m", random_matrix(2, 32), "f32")).read_bytes()
    for length in range(len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with files.open_regular(tmp_path / "cut") as file, pytest.raises(GgufError):
            gguf.read_header(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(100), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "got version 1, expected 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "less than its header takes"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "less than its header takes"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 60), "less than its header takes"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "got an array of type 9"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 0, 1 << 22) + bytes(1 << 22), "at most 2,097,152"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 13), "got value type 13"),
        (b"GGUF" + struct.pack("<IQQQ1s", 3, 0, 1, 1, b"\xff"), "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 8, 12, 0), "got number type 12, expected f32"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 9), "got 9 dimensions"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 33, 8, 0), r"got shape \(33,\) of q8_0"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 1 << 60, 0, 0), "ends at"),
    ],
)  # fmt: skip
def test_an_invalid_header_is_refused_with_the_reason(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with files.open_regular(tmp_path / "file") as file, pytest.raises(GgufError, match=message):
        gguf.read_header(file)


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (0, "tensor 'b': got offset 0, expected a multiple of 32 from 256 on"),
        (224, "tensor 'b': got offset 224, expected a multiple of 32 from 256 on"),
        (260, "tensor 'b': got offset 260, expected a multiple of 32 from 256 on"),
    ],
)
def test_tensors_that_overlap_or_are_not_aligned_are_refused(offset: int, message: str, tmp_path: Path) -> None:
    tensors = [Tensor(name, random_matrix(2, 32), "f32") for name in "ab"]
    path = written(tmp_path / "file", *tensors)
    entry = struct.pack("<Q1sIQQI", 1, b"b", 2, 32, 2, 0)
    before, after = path.read_bytes().split(entry + struct.pack("<Q", 256))
    path.write_bytes(before + entry + struct.pack("<Q", offset) + after)
    with files.open_regular(path) as file, pytest.raises(GgufError, match=message):
        gguf.read_header(file)


@pytest.mark.filterwarnings("error")
def test_an_infinite_scale_gives_values_that_are_not_finite_without_a_warning(tmp_path: Path) -> None:
    path = written(tmp_path / "file", Tensor("m", np.zeros((1, 32), np.float32), "q8_0"))
    data = path.read_bytes()
    path.write_bytes(data[:-64] + struct.pack("<e", np.inf) + data[-62:])
    with files.open_regular(path) as file:
        (values,) = gguf.tensor_rows(file, gguf.read_header(file), "m")
    assert np.isnan(values).all()


def test_a_missing_tensor_and_another_shape_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "file", Tensor("m", random_matrix(2, 32), "f32"))
    with files.open_regular(path) as file:
        header = gguf.read_header(file)
        with pytest.raises(GgufError, match="tensor other is missing"):
            gguf.read_tensor(file, header, "other", np.empty((2, 32), np.float32))
        with pytest.raises(GgufError, match=r"tensor m: got shape \(2, 32\), expected \(32, 2\)"):
            gguf.read_tensor(file, header, "m", np.empty((32, 2), np.float32))
