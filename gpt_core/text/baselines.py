"""Baseline scores of a text: uniform distribution, token frequencies, general-purpose compressors.

A model whose loss is below the entropy of the token frequencies uses the context; one with fewer bits per byte than a
compressor predicts the text better than the compressor does. The scores of a text are stored in a cache file.

Work and memory are bounded for texts of any size: of a long training text MAX_COUNTED_TOKENS at regular intervals are
counted, of a long eval text the first MAX_COMPRESSED_BYTES are compressed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from gpt_core.text.cache_files import cache_folders, new_cache_file
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer

VERSION = 2
MAX_COUNTED_TOKENS = 1 << 22
MAX_COMPRESSED_BYTES = 1 << 20
MAX_STORED_BYTES = 1 << 14
BLOCK_TOKENS = 1 << 16
PPMD_ORDER, PPMD_BYTES = 6, 16 << 20


class Baselines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of a text without a model."""

    uniform: float
    """ln V: loss of a uniform distribution over the vocabulary, in nats per token"""
    unigram: float
    """entropy of the frequencies of the training text's tokens, in nats per token"""
    bytes_per_token: float
    """bytes of the eval text per token to predict, which converts bits per byte into nats per token"""
    compressed: dict[str, float]
    """bits per byte of the eval text, by compressor that makes it smaller"""
    compressed_bytes: int = 0
    """bytes from the start of the eval text that were compressed, 0 for all of it"""


class Compressor(Protocol):
    """Compressor of a stream, as `lzma` and `pyppmd` have it."""

    def compress(self, data: bytes, /) -> bytes:
        """Compress a part of the data; return what is complete."""

    def flush(self) -> bytes:
        """Return the rest."""


class BaselineFile(msgspec.Struct, forbid_unknown_fields=True):
    """Contents of a cache file. `text_sha256` is the digest of the file that the eval text is from."""

    format: str
    version: int
    text_sha256: str
    baselines: Baselines


FORMAT = "gpt-tui baselines"
_FILE = msgspec.json.Decoder(BaselineFile)


def measure_baselines(
    train: TokenStream, held_out: TokenStream, tokenizer: Tokenizer, is_stopping: Callable[[], bool] = lambda: False
) -> Baselines | None:
    """Return the baselines of a run, None if `is_stopping` returns True meanwhile.

    Args:
        train: The training text.
        held_out: The eval text.
        tokenizer: The tokenizer of both.
        is_stopping: Called between blocks of work of a few milliseconds.

    Raises:
        CorpusError: A text cannot be read.
    """
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for start, count in counted_blocks(len(train)):
        counts += np.bincount(train.read(start, count), minlength=len(counts))
        if is_stopping():
            return None
    bytes_per_token = held_out.target_bytes / max(len(held_out) - 1, 1)
    text = b"".join(_text_blocks(held_out, tokenizer))
    # bytes of the original that these stand for: line ends and blank lines between documents count, too
    read_all = len(text) < MAX_COMPRESSED_BYTES
    size = held_out.bytes if read_all else len(text)
    compressed = {}
    for name, compressor in (compressors() if held_out.target_bytes > 0 else {}).items():
        length = _compressed_length(compressor, text, is_stopping)
        if length is None:
            return None
        if length < size:  # else its header is longer than what it saves
            compressed[name] = 8 * length / size
    return Baselines(
        math.log(tokenizer.vocab_size), entropy(counts), bytes_per_token, compressed, 0 if read_all else size
    )


def entropy(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Return the entropy of a distribution, -sum(p ln p), in nats; p is proportional to `counts` (n,)."""
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log(shares)).sum())


def counted_blocks(tokens: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of the blocks of a text whose tokens are counted: all, or some at regular intervals."""
    blocks = -(-tokens // BLOCK_TOKENS)
    stride = max(1, math.ceil(tokens / MAX_COUNTED_TOKENS))
    return ((block * BLOCK_TOKENS, BLOCK_TOKENS) for block in range(0, blocks, stride))


def compressors() -> dict[str, Compressor]:
    """Return a new compressor of each kind that is installed: xz, and PPMd of the package `pyppmd`."""
    found: dict[str, Compressor] = {}
    with contextlib.suppress(ImportError):  # a Python may be built without lzma
        lzma = import_module("lzma")
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": MAX_COMPRESSED_BYTES}]
        found["xz"] = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    with contextlib.suppress(ImportError):
        found["ppmd"] = import_module("pyppmd").PpmdCompressor(PPMD_ORDER, PPMD_BYTES)
    return found


def read_baselines(path: Path, sha256: str) -> Baselines | None:
    """Return the cached baselines of the texts with this key (see `baselines_key`), None if there are none.

    Args:
        path: Path that the caches of the eval text are named after.
        sha256: The key.
    """
    for folder in cache_folders(path):
        if (stored := read_baseline_file(folder / _cache_name(path, sha256))) is not None:
            return stored.baselines
    return None


def read_baseline_file(cache: Path) -> BaselineFile | None:
    """Return the contents of a cache file, None if it is missing, damaged or of another version."""
    try:
        if not cache.is_file() or cache.stat().st_size > MAX_STORED_BYTES:
            return None
        stored = _FILE.decode(cache.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return stored if (stored.format, stored.version) == (FORMAT, VERSION) else None


def write_baselines(path: Path, sha256: str, text_sha256: str, baselines: Baselines) -> None:
    """Write the baselines into the first cache folder that can be written; a failure costs their next computation.

    Args:
        path: Path that the caches of the eval text are named after.
        sha256: The key.
        text_sha256: Digest of the file that the eval text is from.
        baselines: The baselines.
    """
    data = msgspec.json.encode(BaselineFile(FORMAT, VERSION, text_sha256, baselines))
    for folder in cache_folders(path):
        with contextlib.suppress(OSError), new_cache_file(folder) as cache:
            cache.file.write(data)
            cache.publish(_cache_name(path, sha256))
            return


def baselines_key(train: TokenStream, held_out: TokenStream, tokenizer: Tokenizer) -> str:
    """Return a digest of all that the baselines depend on: both texts, the tokenizer, the installed compressors."""
    texts = ((text.sha256, text.start, text.count) for text in (train, held_out))
    parts = (VERSION, *texts, tokenizer.sha256, sorted(compressors()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _cache_name(path: Path, sha256: str) -> str:
    return f"{path.name}.baselines-{sha256[:12]}"


def _text_blocks(text: TokenStream, tokenizer: Tokenizer) -> Iterator[bytes]:
    """Yield the beginning of a text, MAX_COMPRESSED_BYTES at most; each document ends with a newline."""
    pieces = [b"\n" if token == tokenizer.EOS else piece for token, piece in enumerate(tokenizer.vocabulary)]
    pieces += [b""] * (tokenizer.vocab_size - len(pieces))
    size = 0
    for start in range(0, len(text), BLOCK_TOKENS):
        block = b"".join([pieces[token] for token in text.read(start, BLOCK_TOKENS).tolist()])
        yield block[: MAX_COMPRESSED_BYTES - size]
        size += len(block)
        if size >= MAX_COMPRESSED_BYTES:
            return


def _compressed_length(compressor: Compressor, text: bytes, is_stopping: Callable[[], bool]) -> int | None:
    """Return the length of the compressed text, None if `is_stopping` returns True meanwhile."""
    length = 0
    for start in range(0, len(text), BLOCK_TOKENS):
        length += len(compressor.compress(text[start : start + BLOCK_TOKENS]))
        if is_stopping():
            return None
    return length + len(compressor.flush())
