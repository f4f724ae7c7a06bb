"""File format of cached tokens: one line of JSON, padded to 512 bytes, and the ids as 2- or 4-byte integers."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np

from gpt_core.errors import CorpusError
from gpt_core.kernels import threads
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.corpus import BLOCK_BYTES
from gpt_core.text.documents import DocumentKind
from gpt_core.text.reader import TextReader, empty
from gpt_core.text.source import TextSource
from gpt_core.text.token_stream import FileSource, TokenStream, encode_parts, marks_per_document, stream_of
from gpt_core.tokenizers import Tokenizer

VERSION = 1
HEADER_BYTES = 512
FORMAT = "gpt-tui tokens"
MIN_COUNT = 2  # tokens: one of the text, <eos>


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """First HEADER_BYTES of a token file: a line of JSON, padded with spaces."""

    format: str
    version: int
    text_sha256: str
    text_bytes: Annotated[int, msgspec.Meta(ge=1)]
    tokenizer_sha256: str
    document: str
    token_bytes: int
    """Bytes per id, 2 or 4, little-endian."""
    count: Annotated[int, msgspec.Meta(ge=MIN_COUNT)]
    """Number of ids."""
    crc32: int
    """Checksum of the ids followed by this header with 0 in this field."""


_HEADER = msgspec.json.Decoder(Header)


def write_token_file(
    file: BinaryIO, source: TextSource, tokenizer: Tokenizer, document: DocumentKind, progress: Progress
) -> Header:
    """Encode a text into an open file, a block per compute thread at a time.

    Returns:
        The header, which has the digest of the text as it was read.

    Raises:
        CorpusError: The text cannot be read, or has no tokens.
        TokenizerError: An id is not in the vocabulary.
        OSError: The file cannot be written.
    """
    dtype = _id_dtype(tokenizer)
    reader = TextReader(source, activity="encoding", progress=progress)
    count = documents = checksum = 0
    file.write(b" " * HEADER_BYTES)
    for ids, ended in encode_parts(reader.parts(document), tokenizer, threads.get_threads()):
        data = ids.astype(dtype).tobytes()
        file.write(data)
        checksum = zlib.crc32(data, checksum)
        count += len(ids)
        documents += ended
    if documents == 0:
        raise empty(source)
    if count == documents * marks_per_document(tokenizer):
        raise CorpusError(
            f"the text {source.name} has no tokens with tokenizer = {tokenizer.name}, which drops all of it; "
            "name another file, or set tokenizer = pieces, which encodes any text"
        )
    header = Header(
        format=FORMAT, version=VERSION, text_sha256=reader.sha256, text_bytes=reader.text_bytes,
        tokenizer_sha256=tokenizer.sha256, document=document, token_bytes=dtype.itemsize, count=count, crc32=0,
    )  # fmt: skip
    header.crc32 = zlib.crc32(msgspec.json.encode(header), checksum)
    file.seek(0)
    file.write(msgspec.json.encode(header).ljust(HEADER_BYTES - 1) + b"\n")
    return header


def open_token_file(
    cache: Path,
    source: TextSource,
    sha256: str,
    tokenizer: Tokenizer,
    document: DocumentKind,
    progress: Progress = ignore_progress,
) -> TokenStream | None:
    """Open the tokens of a text with this digest. `progress` receives the fraction of them that was checked.

    Returns:
        The tokens, after all of them were checked; None where `cache` is missing, damaged or of another text.
    """
    dtype = _id_dtype(tokenizer)
    try:
        if not stat.S_ISREG(cache.stat().st_mode):
            return None
        with open(cache, "rb") as file:
            header = _HEADER.decode(file.read(HEADER_BYTES))
            expected = msgspec.structs.replace(
                header, format=FORMAT, version=VERSION, text_sha256=sha256,
                tokenizer_sha256=tokenizer.sha256, document=document, token_bytes=dtype.itemsize,
            )  # fmt: skip
            if header != expected:
                return None
            activity = f"checking the tokens of {source.title}"
            documents = _documents_of_valid_ids(file, header, dtype, tokenizer, partial(progress, activity))
        ids = FileSource(cache, HEADER_BYTES, dtype)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if documents is None:
        return None
    return stream_of(ids, header.count, header.text_bytes, tokenizer, sha256, source.name, documents, progress)


def read_header(cache: Path) -> Header | None:
    """Return the header of a token file; None if it is not one of this program. The ids are not checked."""
    try:
        if not stat.S_ISREG(cache.stat().st_mode):
            return None
        with open(cache, "rb") as file:
            header = _HEADER.decode(file.read(HEADER_BYTES))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return header if header.format == FORMAT else None


def _id_dtype(tokenizer: Tokenizer) -> np.dtype[np.unsignedinteger]:
    """Return the type of an id in the file: two bytes where they suffice."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _documents_of_valid_ids(
    file: BinaryIO,
    header: Header,
    dtype: np.dtype[np.unsignedinteger],
    tokenizer: Tokenizer,
    report: Callable[[float], object],
) -> int | None:
    """Return the number of documents if the rest of `file` is the ids of the header, complete and valid, else None."""
    size = checksum = documents = 0
    expected = header.count * dtype.itemsize
    while data := file.read(BLOCK_BYTES):
        if size:  # a short text is checked at once
            report(size / expected)
        size += len(data)
        checksum = zlib.crc32(data, checksum)
        if size > expected or len(data) % dtype.itemsize:
            return None
        ids = np.frombuffer(data, dtype=dtype)
        if int(ids.max()) >= tokenizer.vocab_size:
            return None
        documents += int(np.count_nonzero(ids == tokenizer.EOS))
    if tokenizer.adds_bos and tokenizer.BOS == tokenizer.EOS:
        documents //= 2  # each begins with that id, too
    unsigned = msgspec.structs.replace(header, crc32=0)
    is_complete = size == expected
    is_valid = is_complete and zlib.crc32(msgspec.json.encode(unsigned), checksum) == header.crc32
    return documents if is_valid else None
