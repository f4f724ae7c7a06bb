"""GGUF files and number types compared with the package `gguf`, which llama.cpp's own converters use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt_core import files
from gpt_core.api import Model
from gpt_core.formats import gguf
from tests.bridges.samples import model

package = pytest.importorskip("gguf")

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}


@pytest.mark.parametrize("number_type", TYPES)
def test_the_package_reads_the_same_values_and_tensors(number_type: str, tmp_path: Path) -> None:
    Model(model()).export("gguf", tmp_path / "file", type=number_type)
    reader = package.GGUFReader(tmp_path / "file")
    with files.open_regular(tmp_path / "file") as file:
        header = gguf.read_header(file)
        found = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        assert found == header.values
        assert [tensor.name for tensor in reader.tensors] == list(header.tensors)
        for tensor in reader.tensors:
            own = np.empty(header.tensors[tensor.name].shape, np.float32)
            gguf.read_tensor(file, header, tensor.name, own)
            assert np.array_equal(package.quants.dequantize(tensor.data, tensor.tensor_type).reshape(own.shape), own)


@pytest.mark.parametrize("number_type", TYPES)
def test_the_package_encodes_to_the_same_bytes(number_type: str) -> None:
    parameters = model().parameters
    for values in (parameters["wte.weight"], parameters["h.0.attn.c_attn.weight"].T):
        kind = getattr(package.GGMLQuantizationType, TYPES[number_type])
        expected = package.quants.quantize(np.ascontiguousarray(values), kind)
        assert b"".join(gguf.encode_values(values, number_type)) == expected.tobytes()
