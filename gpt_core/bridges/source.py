"""Models of other programs, as they are read: the shape, the tokenizer, and the weights in chunks."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core import files
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.config.validation import check_together, checked
from gpt_core.errors import ConfigError, ModelImportError
from gpt_core.tokenizers import Tokenizer

Chunks = Iterator[NDArray[np.float32]]
MAX_SMALL_BYTES = 64 << 20  # of a file that is read at once
T = TypeVar("T")


class SourceModel(NamedTuple):
    """A model of another program: its description was checked, its weights are read by `chunks`.

    Attributes:
        settings: Settings of its shape, its tokenizer and its documents.
        tokenizer: Its tokenizer, of as many ids as the embedding has rows.
        chunks: Returns the values of a parameter of the table in pieces, in order. Raises ModelImportError.
    """

    settings: Settings
    tokenizer: Tokenizer
    chunks: Callable[[str], Chunks]


def settings_of(shape: ModelShape, path: Path, document: object) -> Settings:
    """Return the settings of a model of this shape, of a run with this setting `document`.

    Raises:
        ModelImportError: A value is not supported.
    """
    try:
        given = msgspec.structs.asdict(shape) | {"document": document}
        values = {key: checked(key, value) for key, value in given.items()}
        settings = msgspec.convert(values, Settings)
        check_together(settings)
    except ConfigError as error:
        raise ModelImportError(f"{path}: the model is not supported: {str(error)[:200]}") from None
    return settings


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[io.FileIO]:
    """Open a file, to be read in the context. Raises ModelImportError, also where reading fails."""
    try:
        with files.open_regular(path) as file:
            yield file
    except files.NotRegularError as error:
        raise ModelImportError(f"{path} {files.reason(error)}") from None
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {files.reason(error)}") from None


def read_small(path: Path) -> bytes:
    """Return the bytes of a file of at most 64 MiB. Raises ModelImportError."""
    with open_source(path) as file:
        data = file.read(MAX_SMALL_BYTES + 1) or b""
    if len(data) > MAX_SMALL_BYTES:
        raise ModelImportError(f"{path}: got more than {MAX_SMALL_BYTES >> 20} MiB, expected a smaller file")
    return data


def read_json(path: Path, decoder: msgspec.json.Decoder[T]) -> T:
    """Return what a JSON file holds. Raises ModelImportError if it is not valid."""
    try:
        return decoder.decode(read_small(path))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelImportError(f"{path} is not valid: {str(error)[:200]}; save or download it again") from None


def missing_tensors(names: Sequence[str]) -> str:
    """Return in words that tensors of these names are missing."""
    if len(names) == 1:
        return f"the tensor {names[0]} is missing"
    return f"{len(names)} tensors are missing, the first {names[0]}"


def same_values(left: Iterable[NDArray[np.float32]], right: Iterable[NDArray[np.float32]]) -> bool:
    """Return True if two tensors of one shape are equal. The pieces need not have the same sizes."""
    rest = [np.empty(0, np.float32), np.empty(0, np.float32)]
    streams = iter(left), iter(right)
    while True:
        for side, stream in enumerate(streams):
            if not rest[side].size:
                rest[side] = next(stream, rest[side]).reshape(-1)
        size = min(part.size for part in rest)
        if not size:
            return not any(part.size for part in rest)
        if not np.array_equal(rest[0][:size], rest[1][:size]):
            return False
        rest = [part[size:] for part in rest]
