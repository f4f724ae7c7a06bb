"""Import of Hugging Face's folders of GPT-2 and Qwen3 models, as `save_pretrained` writes them.

Everything that can be checked without reading the weights is checked first: configuration, tokenizer, names, types,
shapes and lengths of the tensors. The weights are then read one chunk at a time. Pickled weights are never read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec
import numpy as np

from gpt_core.bridges.hf_tokenizer_import import read_tokenizer
from gpt_core.bridges.huggingface import (
    CONFIG,
    CONFIGS,
    HEAD,
    MODEL_TYPE,
    WEIGHTS,
    WEIGHTS_INDEX,
    ModelConfig,
    parameter_name,
    places,
)
from gpt_core.bridges.places import parameter_chunks
from gpt_core.bridges.source import (
    Chunks,
    SourceModel,
    missing_tensors,
    open_source,
    read_json,
    same_values,
    settings_of,
)
from gpt_core.config.settings import ModelShape
from gpt_core.errors import ModelImportError
from gpt_core.formats import safetensors
from gpt_core.formats.safetensors import SafetensorsError, TensorEntry
from gpt_core.kernels.arrays import widened
from gpt_core.model.layers.embedding import WTE
from gpt_core.model.parameters import parameter_table

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
OTHER_WEIGHTS = ("tf_model.h5", "flax_model.msgpack")
USE_SAFETENSORS = "load it with transformers and save it with `save_pretrained(DIR, safe_serialization=True)`"
LFS_POINTER = b"version https://git-lfs"  # begins a file that `git clone` has left without its contents
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class Index(msgspec.Struct):
    """`model.safetensors.index.json`: the file of each tensor."""

    weight_map: dict[str, str]


class Stored(NamedTuple):
    """A tensor in a safetensors file."""

    path: Path
    data_start: int
    name: str
    entry: TensorEntry

    def chunks(self) -> Chunks:
        """Yield the values in pieces, widened to float32. Raises ModelImportError."""
        try:
            with open_source(self.path) as file:
                for chunk in safetensors.tensor_chunks(file, self.data_start, self.entry):
                    yield widened(chunk.view(_TYPES[self.entry.dtype]))
        except SafetensorsError as error:
            raise ModelImportError(f"{self.path}: {self.name}: {error}") from None


class ModelType(msgspec.Struct):
    """The key of a `config.json` that names the architecture."""

    model_type: str = ""


_MODEL_TYPE = msgspec.json.Decoder(ModelType)
_CONFIGS = {name: msgspec.json.Decoder(kind) for name, kind in CONFIGS.items()}
_INDEX = msgspec.json.Decoder(Index)


def read_folder(folder: Path) -> SourceModel:
    """Return the model in a folder, with everything but the values of the weights checked.

    Raises:
        ModelImportError: It is not a GPT-2 or Qwen3 model, or a file in it is missing, damaged or not supported.
        MissingPackageError: The package `tokenizers` is not installed.
    """
    if not os.path.lexists(folder / CONFIG):
        raise ModelImportError(
            f"{folder} has no {CONFIG}: expected a folder that `save_pretrained` of transformers wrote"
        )
    config = read_config(folder / CONFIG)
    settings = settings_of(config.shape, folder / CONFIG, config.gpt_tui_document)
    stored = stored_tensors(folder, config.model_type)
    tokenizer = read_tokenizer(folder, config)
    check_tensors(folder, config.shape, stored)
    settings = msgspec.structs.replace(settings, tokenizer=tokenizer.name)
    tensors = places(config.shape)

    def chunks(name: str) -> Chunks:
        return parameter_chunks(tensors, config.shape, name, lambda tensor: stored[tensor].chunks())

    return SourceModel(settings, tokenizer, chunks)


def read_config(path: Path) -> ModelConfig:
    """Return a `config.json`. Raises ModelImportError unless such a model computes what one of this program does."""
    model_type = read_json(path, _MODEL_TYPE).model_type
    if model_type not in _CONFIGS:
        _refuse(path, "model_type", model_type, tuple(_CONFIGS))
    config = read_json(path, _CONFIGS[model_type])
    for name, got, expected in config.rules:
        if got not in expected:
            _refuse(path, name, got, expected)
    return config


def _refuse(path: Path, name: str, got: object, expected: tuple[object, ...]) -> NoReturn:
    words = " or ".join(msgspec.json.encode(value).decode() for value in expected)
    raise ModelImportError(
        f"{path}: {name}: got {msgspec.json.encode(got).decode()[:80]}, expected {words}: only models "
        "whose layers gpt-tui has can be imported"
    )


def stored_tensors(folder: Path, model_type: str) -> dict[str, Stored]:
    """Return the tensors of a folder by name, that of `gpt2` without its prefix. Raises ModelImportError."""
    if os.path.lexists(folder / WEIGHTS):
        found = tensors_in(folder / WEIGHTS)
    elif os.path.lexists(folder / WEIGHTS_INDEX):
        found = sharded_tensors(folder)
    else:
        for name in (*PICKLED, *OTHER_WEIGHTS):
            if os.path.lexists(folder / name):
                raise ModelImportError(f"{folder / name} is not read: expected {WEIGHTS}; {USE_SAFETENSORS}")
        raise ModelImportError(f"{folder} has no weights: expected {WEIGHTS} or {WEIGHTS_INDEX}")
    named: dict[str, Stored] = {}
    for tensor, stored in found.items():
        name = parameter_name(tensor) if model_type == MODEL_TYPE else tensor
        if name and named.setdefault(name, stored) is not stored:
            raise ModelImportError(f"{stored.path}: {name[:80]} occurs twice, with and without a prefix")
    return named


def sharded_tensors(folder: Path) -> dict[str, Stored]:
    """Return the tensors that the index of a folder names, by their names. Raises ModelImportError."""
    index = read_json(folder / WEIGHTS_INDEX, _INDEX).weight_map
    found: dict[str, Stored] = {}
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise ModelImportError(
                f"{folder / WEIGHTS_INDEX}: got the file {shard[:80]!r}, expected a name in its folder"
            )
        tensors = tensors_in(folder / shard)
        for name in (name for name, file in index.items() if file == shard):
            if name not in tensors:
                raise ModelImportError(f"{folder / shard} has no {name[:80]}, which {WEIGHTS_INDEX} places there")
            found[name] = tensors[name]
    return found


def tensors_in(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, after its length was checked. Raises ModelImportError."""
    with open_source(path) as file:
        try:
            head = safetensors.read_header(file)
            layout = safetensors.decode_layout(head)
            size, expected = os.fstat(file.fileno()).st_size, len(head) + safetensors.data_bytes(layout)
        except SafetensorsError as error:
            file.seek(0)
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelImportError(
                    f"{path} is a Git LFS pointer to the weights; run `git lfs pull` there"
                ) from None
            raise ModelImportError(f"{path} is damaged or not a safetensors file: {error}") from None
    if size != expected:
        raise ModelImportError(
            f"{path} is damaged: got {size:,} bytes, expected {expected:,}; copy or download it again"
        )
    return {name: Stored(path, len(head), name, entry) for name, entry in layout.items()}


def check_tensors(folder: Path, shape: ModelShape, stored: Mapping[str, Stored]) -> None:
    """Raise ModelImportError unless the tensors are those of the model, in types that can be read."""
    sizes = {spec.name: spec.shape for spec in parameter_table(shape)}
    expected = {place.name: place.shape(sizes[place.parameter]) for place in places(shape)}
    if missing := [name for name in expected if name not in stored]:
        raise ModelImportError(f"{folder}: {missing_tensors(missing)}: {CONFIG} and the weights do not agree")
    embedding = next(place.name for place in places(shape) if place.parameter == WTE)
    expected[HEAD] = sizes[WTE]
    for name, tensor in stored.items():
        if name not in expected:
            raise ModelImportError(f"{tensor.path}: unexpected tensor {name[:80]}: not a plain language model")
        if tensor.entry.shape != expected[name]:
            raise ModelImportError(
                f"{tensor.path}: {name}: got shape {str(tensor.entry.shape)[:80]}, expected {expected[name]}"
            )
        if tensor.entry.dtype not in _TYPES:
            raise ModelImportError(f"{tensor.path}: {name}: got {tensor.entry.dtype}, expected {', '.join(_TYPES)}")
    if shape.tied_head and HEAD in stored and not same_values(stored[HEAD].chunks(), stored[embedding].chunks()):
        raise ModelImportError(
            f"{stored[HEAD].path}: {HEAD} differs from {embedding}, but {CONFIG} says that they are one matrix: set "
            "tie_word_embeddings to false there if they are two"
        )
