"""Import of GGUF files of GPT-2 and Qwen3 models: those that `gpt-tui export` writes, and llama.cpp's own.

The tokenizer is one of pieces (`rwkv`, exactly as an export writes it) or byte-pair encoding (`gpt2`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gpt_core.bridges import gguf_model, qwen3
from gpt_core.bridges.places import parameter_chunks
from gpt_core.bridges.source import Chunks, SourceModel, missing_tensors, open_source, same_values, settings_of
from gpt_core.config.settings import ModelShape
from gpt_core.errors import ModelImportError, TokenizerError
from gpt_core.formats import gguf
from gpt_core.formats.gguf import GgufError, Header
from gpt_core.model.layers.embedding import WTE
from gpt_core.model.parameters import parameter_table
from gpt_core.tokenizers import Tokenizer
from gpt_core.tokenizers.byte_pairs import END_OF_TEXT, BytePairTokenizer, pairs
from gpt_core.tokenizers.pieces import PieceTokenizer

FLOAT32_ROUNDING = 2.0**-24
"""Relative error of a number that is stored as float32"""
_ARCHITECTURES = (gguf_model.ARCHITECTURE, qwen3.NAME)
_TOKENS = gguf_model.TOKENIZER


def read_file(path: Path) -> SourceModel:
    """Return the model in a file, with everything but the values of the weights checked.

    Raises:
        ModelImportError: The file is not one of a GPT-2 or Qwen3 model, or it is damaged or not supported.
        MissingPackageError: The package `tokenizers` is not installed.
    """
    with open_source(path) as file:
        try:
            header = gguf.read_header(file)
        except GgufError as error:
            raise ModelImportError(f"{path} is damaged or not supported: {error}") from None
    values = header.values
    check_values(path, values)
    try:
        shape = gguf_model.shape_of(values, tied_head=_has_tied_head(path, header))
    except KeyError as error:
        raise ModelImportError(f"{path}: the key {error} is missing or of another type") from None
    settings = settings_of(shape, path, values.get(gguf_model.DOCUMENT, "paragraph"))
    if shape.positions == "rope":
        check_rules(path, qwen3.gguf_rules(values, shape))
    try:
        tokenizer = tokenizer_of(values)
    except KeyError as error:
        raise ModelImportError(f"{path}: the key {error} is missing or of another type") from None
    except (ValueError, TokenizerError) as error:
        raise ModelImportError(f"{path}: its tokenizer is not supported: {str(error)[:200]}") from None
    check_tensors(path, header, shape)
    settings = msgspec.structs.replace(settings, tokenizer=tokenizer.name)
    tensors = gguf_model.places(shape)

    def chunks(name: str) -> Chunks:
        return parameter_chunks(tensors, shape, name, lambda tensor: _tensor(path, header, tensor))

    return SourceModel(settings, tokenizer, chunks)


def check_values(path: Path, values: dict[str, Any]) -> None:
    """Raise ModelImportError unless the file is of a model that computes what a model of this program does."""
    architecture = values.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        expected = " or ".join(map(repr, _ARCHITECTURES))
        raise ModelImportError(f"{path}: architecture: got {str(architecture)[:40]!r}, expected {expected}")
    if architecture == gguf_model.ARCHITECTURE:
        key = f"{gguf_model.ARCHITECTURE}.attention.layer_norm_epsilon"
        check_rules(path, [(key, values.get(key), gguf_model.EPSILON)])
    if not isinstance(values.get(_TOKENS + "tokens"), list):
        raise ModelImportError(f"{path} has no tokenizer")


def check_tensors(path: Path, header: Header, shape: ModelShape) -> None:
    """Raise ModelImportError unless the tensors are those of the model."""
    sizes = {spec.name: spec.shape for spec in parameter_table(shape)}
    expected = {place.name: place.shape(sizes[place.parameter]) for place in gguf_model.places(shape)}
    if missing := [name for name in expected if name not in header.tensors]:
        raise ModelImportError(f"{path}: {missing_tensors(missing)}")
    for name, tensor_shape in expected.items():
        found = header.tensors[name]
        if found.shape != tensor_shape:
            raise ModelImportError(f"{path}: {name}: got shape {str(found.shape)[:80]}, expected {tensor_shape}")
    if extra := sorted(header.tensors.keys() - expected.keys() - {gguf_model.HEAD}):
        raise ModelImportError(f"{path}: unexpected tensor {extra[0][:80]}: not a plain language model")


def check_rules(path: Path, rules: Sequence[tuple[str, object, object]]) -> None:
    """Raise ModelImportError unless each key has the value that a model of this program has."""
    for key, got, expected in rules:
        if isinstance(got, float) and isinstance(expected, float):
            is_same = math.isclose(got, expected, rel_tol=FLOAT32_ROUNDING)
        else:
            is_same = got == expected
        if not is_same:
            raise ModelImportError(f"{path}: {key}: got {str(got)[:40]}, expected {expected}")


def _has_tied_head(path: Path, header: Header) -> bool:
    """Return True unless a file has a matrix of the logits that differs from the token embedding."""
    return gguf_model.HEAD not in header.tensors or _heads_agree(path, header)


def _heads_agree(path: Path, header: Header) -> bool:
    """Return True if the matrix of the logits is that of the token embedding."""
    wte, head = gguf_model.tensor_name(WTE), gguf_model.HEAD
    if wte not in header.tensors or header.tensors[head].shape != header.tensors[wte].shape:
        return False
    return same_values(_tensor(path, header, head), _tensor(path, header, wte))


def tokenizer_of(values: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of a file.

    Raises:
        KeyError: A key is missing or of another type.
        ValueError: It is of another kind, or not one that an export writes.
        TokenizerError: Its tokens are not valid.
    """
    texts = gguf_model.strings(values, _TOKENS + "tokens")
    types = values.get(_TOKENS + "token_type")
    if not isinstance(types, list):
        raise KeyError(_TOKENS + "token_type")
    if len(types) != len(texts):
        raise ValueError(f"got {len(types):,} types of tokens, expected one for each of the {len(texts):,} tokens")
    model = values[_TOKENS + "model"]
    if model == gguf_model.LONGEST_MATCH:
        return _pieces(texts, types)
    if model != gguf_model.BYTE_PAIRS:
        raise ValueError(f"got the model {str(model)[:40]!r}, expected gpt2 or rwkv")
    if (split := values.get(_TOKENS + "pre", "gpt-2")) not in ("gpt-2", "gpt2", "default"):
        raise ValueError(f"got the pre-tokenizer {str(split)[:40]!r}, expected gpt-2")
    for text, kind in zip(texts, types, strict=True):
        if kind == gguf_model.ADDED and text != END_OF_TEXT:
            raise ValueError(f"got the added token {text[:40]!r}, which is not special")
    used = len(texts)
    while used and types[used - 1] == gguf_model.UNUSED:
        used -= 1
    special = {token for token in range(used) if types[token] != gguf_model.NORMAL}
    eos = gguf_model.integer(values, _TOKENS + "eos_token_id")
    bos = values.get(_TOKENS + "bos_token_id")
    bos = bos if isinstance(bos, int) and bos in special else eos
    if values.get(_TOKENS + "add_eos_token"):
        raise ValueError("got add_eos_token, which ends each prompt; expected prompts without an end")
    merges = pairs(gguf_model.strings(values, _TOKENS + "merges"))
    adds_bos = bool(values.get(_TOKENS + "add_bos_token"))
    special_ids = sorted({*special, eos, bos})
    return BytePairTokenizer(texts[:used], merges, special_ids, eos, bos, len(texts), adds_bos=adds_bos)


def _pieces(texts: Sequence[str], types: Sequence[int]) -> Tokenizer:
    """Return the tokenizer of pieces whose texts and types these are. Raises ValueError if there is none."""
    used = [gguf_model.unescaped(text) for text, kind in zip(texts, types, strict=True) if kind == gguf_model.NORMAL]
    tokenizer = PieceTokenizer(used[256:], len(texts))
    if gguf_model.token_texts(tokenizer.vocabulary, tokenizer.vocab_size) != (list(texts), list(types)):
        raise ValueError("expected the tokens of `pieces`: 4 special ones, the 256 single bytes, pieces, unused ones")
    return tokenizer


def _tensor(path: Path, header: Header, name: str) -> Chunks:
    """Yield the values of a tensor as it is stored. Raises ModelImportError."""
    try:
        with open_source(path) as file:
            yield from gguf.tensor_rows(file, header, name)
    except GgufError as error:
        raise ModelImportError(f"{path}: {name}: {error}") from None
