"""Decompression of gzip and zstd data in blocks, in bounded memory however far the data expands.

Data of zstd needs the memory of its window: 8 MiB at most levels, up to 2 GiB with `zstd --long=31`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import NamedTuple, Protocol

from gpt_core.errors import CorpusError, install_hint

_SKIPPABLE = tuple(bytes([code]) + b"\x2a\x4d\x18" for code in range(0x50, 0x60))  # frames that pzstd begins with
MAGIC = {".gz": (b"\x1f\x8b",), ".zst": (b"\x28\xb5\x2f\xfd", *_SKIPPABLE)}
"""First bytes of each format, by the suffix of its files."""
MIN_BLOCK_BYTES = 1 << 20  # yielded at a time, except at the end
GZIP_WINDOW_BITS = 31  # gzip header, window of 32 KiB


class Decoder(Protocol):
    """Decoder of one compressed stream, as zlib, zstandard and the standard library of Python 3.14 have it."""

    @property
    def eof(self) -> bool:
        """True at the end of the stream."""

    @property
    def unused_data(self) -> bytes:
        """Bytes after the end of the stream."""

    def decompress(self, data: bytes, /) -> bytes:
        """Return what the next bytes of the stream expand to."""


class Format(NamedTuple):
    """Compression format; a decoder is given `input_bytes` at a time, which expand to at most 8 MiB."""

    name: str
    new_decoder: Callable[[], Decoder]
    error: type[Exception]
    input_bytes: int


def decompressed(blocks: Iterable[bytes], suffix: str, name: str) -> Iterator[bytes]:
    """Yield the contents of a compressed file. It may hold several streams, one after another.

    Args:
        blocks: Bytes of the file.
        suffix: Key of MAGIC.
        name: Name of the file, for error messages.

    Raises:
        CorpusError: The data is damaged, or cut short, or the package for zstd is not installed.
    """
    compression = Format("gzip", _new_gzip, zlib.error, 1 << 12) if suffix == ".gz" else _zstd_format(name)
    found = bytearray()
    decoder = compression.new_decoder()
    try:
        for block in blocks:
            for start in range(0, len(block), compression.input_bytes):
                rest = block[start : start + compression.input_bytes]
                while rest and not (decoder.eof and rest.count(0) == len(rest)):  # zeros may fill up the last sector
                    if decoder.eof:
                        decoder = compression.new_decoder()
                    found += decoder.decompress(rest)
                    rest = decoder.unused_data if decoder.eof else b""
                if len(found) >= MIN_BLOCK_BYTES:
                    yield bytes(found)
                    found = bytearray()
    except compression.error as error:
        raise CorpusError(f"{name} is damaged: {compression.name}: {error}; restore it from its source") from None
    if found:
        yield bytes(found)
    if not decoder.eof:
        raise CorpusError(f"{name} is damaged: its {compression.name} data is cut short; restore it from its source")


def _new_gzip() -> Decoder:
    return zlib.decompressobj(GZIP_WINDOW_BITS)


def _zstd_format(name: str) -> Format:
    """Return the format of zstd: of the standard library from Python 3.14 on, else of the package `zstandard`.

    Both refuse windows of more than 128 MiB by default, which are allowed here.

    Raises:
        CorpusError: Neither is installed.
    """
    try:
        library = import_module("compression.zstd")
        window_log = library.DecompressionParameter.window_log_max
        new_decoder = partial(library.ZstdDecompressor, options={window_log: window_log.bounds()[1]})
    except ModuleNotFoundError:
        try:
            library = import_module("zstandard")
        except ModuleNotFoundError:
            raise CorpusError(
                f"{name} is zstd-compressed, but zstandard is not installed; {install_hint('zstd')}, or decompress "
                "the file with `unzstd`"
            ) from None
        new_decoder = library.ZstdDecompressor(max_window_size=1 << library.WINDOWLOG_MAX).decompressobj
    return Format("zstd", new_decoder, library.ZstdError, 1 << 8)
