"""Text as token ids, encoded once and kept beside the text; and the tokenizer of a text, chosen once and kept.

The name of a cache holds a hash over all that its content depends on, every byte of the text among it, so a cache is
never stale: another text, tokenizer or kind of document is another file. What is damaged or foreign is made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import CorpusError, TokenizerError
from gpt_core.text.cache_files import cache_folders, write_whole
from gpt_core.text.documents import BLOCK_BYTES, DocumentKind, document_parts, joined, sample_windows, text_blocks
from gpt_core.text.token_stream import FileTokenStream, MemoryTokenStream, TokenStream
from gpt_core.tokenizers.pieces import MAX_STORED_BYTES, Mode, Tokenizer
from gpt_core.tokenizers.training import CHOICE_VERSION, SAMPLE_BYTES, train_tokenizer

Progress = Callable[[str, float], None]  # what is being done, and the share of it that is done, 0 to 1

CACHE_VERSION = 1
HEADER_BYTES = 512
FORMAT = "gpt-tui tokens"
SHORTEST = 3  # tokens: <bos>, something, <eos>


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """The beginning of a token cache, as a line of JSON, padded with spaces to HEADER_BYTES; the ids follow."""

    format: str
    version: int
    text_sha256: str
    text_bytes: Annotated[int, msgspec.Meta(ge=1)]
    tokenizer_sha256: str
    document: str
    token_bytes: int
    """Bytes of an id, 2 or 4, little-endian."""
    count: Annotated[int, msgspec.Meta(ge=SHORTEST)]
    crc32: int
    """Of the ids, and this header with a 0 here after them."""


HEADER = msgspec.json.Decoder(Header)


def load_tokens(
    path: Path,
    tokenizer: Tokenizer,
    document: DocumentKind,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> TokenStream:
    """The tokens of a text file: from its cache, or encoded and cached, beside the text or in the user's cache folder.

    Memory is bounded whatever the size of the text. If the text changes meanwhile, what was read is what is cached.
    Raises CorpusError if the text cannot be read, or has nothing in it, or no cache can be written.
    """
    folders = cache_folders(path, cache_dir)
    digest = text_sha256(path, progress)
    for folder in folders:
        text = open_token_cache(folder, path, digest, tokenizer, document)
        if text is not None:
            return text
    failures = []
    for folder in folders:
        try:
            return make_token_cache(folder, path, tokenizer, document, progress)
        except OSError as error:
            failures.append(f"{folder}: {error.strerror}")
    why = "; ".join(failures) or "there is no home folder to keep it in"
    raise CorpusError(f"cannot write a token cache ({why}); free some space, or set XDG_CACHE_HOME")


def load_or_train_tokenizer(
    path: Path,
    vocab_size: int,
    mode: Mode = "pieces",
    document: DocumentKind = "paragraph",
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """The tokenizer whose pieces serve a text file best: from its cache, or chosen and cached; always the same one.

    Of a text of more than 32 MiB, windows of 1 MiB at even distances are looked at. A cache that cannot be written is
    done without. Raises CorpusError if the text cannot be read, TokenizerError for a vocab_size out of range.
    """
    folders = cache_folders(path, cache_dir)
    name = tokenizer_cache_name(path, text_sha256(path, progress), vocab_size, mode, document)
    for folder in folders:
        tokenizer = open_tokenizer_cache(folder / name)
        if tokenizer is not None and (tokenizer.vocab_size, tokenizer.mode) == (vocab_size, mode):
            return tokenizer
    if progress:
        progress("choosing pieces", 0.0)
    documents = (part for window in sample_windows(path, SAMPLE_BYTES) for part, _ in document_parts(window, document))
    tokenizer = train_tokenizer(documents, vocab_size, mode)
    for folder in folders:
        with contextlib.suppress(OSError):
            write_whole(folder, partial(write_tokenizer, tokenizer=tokenizer, name=name))
            break
    return tokenizer


def tokens_of_documents(documents: Iterable[bytes], tokenizer: Tokenizer) -> TokenStream:
    """The tokens of a few documents, in memory. Raises CorpusError if there is nothing in them."""
    texts = list(documents)
    stretches = [ids for ids, _ in encoded(((text, True) for text in texts), tokenizer)]
    ids = np.concatenate([np.empty(0, dtype=np.int32), *stretches])
    if len(ids) == 2 * len(texts):
        raise CorpusError("there is nothing to learn: the documents are empty; give some text")
    digest = hashlib.sha256(b"\n".join(texts)).hexdigest()
    size = sum(len(text) for text in texts)
    return TokenStream(MemoryTokenStream(ids), 0, len(ids), size, tokenizer.token_lengths, digest, None)


def encoded(parts: Iterable[tuple[bytes, bool]], tokenizer: Tokenizer) -> Iterator[tuple[NDArray[np.int32], int]]:
    """Stretches of ids of a stream of documents, each with the number of documents that end in it."""
    is_open = False
    for text, ends in joined(parts):
        ids, is_open = tokenizer.encode_documents(text, ends, is_open)
        yield ids, len(ends)


def text_sha256(path: Path, progress: Progress | None = None) -> str:
    """Hex digest of every byte of a text file. Raises CorpusError if it cannot be read."""
    digest = hashlib.sha256()
    for block in reported(text_blocks(path), path, "reading", progress):
        digest.update(block)
    return digest.hexdigest()


def reported(blocks: Iterable[bytes], path: Path, doing: str, progress: Progress | None) -> Iterator[bytes]:
    """The same blocks, with progress told as they are read."""
    size = 1
    if progress:
        with contextlib.suppress(OSError):  # reading says better what is wrong with the file
            size = max(path.stat().st_size, 1)
    done = 0
    for block in blocks:
        if progress:
            progress(f"{doing} {path.name}", min(done / size, 1.0))
        done += len(block)
        yield block


def short_hash(words: str) -> str:
    """The 12 hex digits that end the name of a cache."""
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def tokenizer_cache_name(path: Path, digest: str, vocab_size: int, mode: Mode, document: DocumentKind) -> str:
    """The name of the cache of the tokenizer that is chosen for a text with the SHA-256 `digest`."""
    depends_on = f"{CACHE_VERSION} {CHOICE_VERSION} {digest} {vocab_size} {mode} {document}"
    return f"{path.name}.pieces-{short_hash(depends_on)}"


def token_cache_name(path: Path, digest: str, tokenizer: Tokenizer, document: DocumentKind) -> str:
    """The name of the token cache of a text with the SHA-256 `digest`."""
    return f"{path.name}.tokens-{short_hash(f'{CACHE_VERSION} {digest} {tokenizer.sha256} {document}')}"


def make_token_cache(
    folder: Path, path: Path, tokenizer: Tokenizer, document: DocumentKind, progress: Progress | None
) -> TokenStream:
    """Encode the text into a cache in `folder`. Raises OSError if that fails, CorpusError if the text is at fault."""
    digests = []

    def write(file: BinaryIO) -> str:
        digests.append(write_tokens(file, path, tokenizer, document, progress))
        return token_cache_name(path, digests[0], tokenizer, document)

    write_whole(folder, write)
    text = open_token_cache(folder, path, digests[0], tokenizer, document)
    if text is None:
        raise OSError(errno.EIO, "the token cache is not read back as it was written")
    return text


def write_tokens(
    file: BinaryIO, path: Path, tokenizer: Tokenizer, document: DocumentKind, progress: Progress | None
) -> str:
    """Write the header and the ids of a text, and return the SHA-256 of the bytes that were read."""
    dtype = dtype_of(tokenizer)
    digest = hashlib.sha256()
    text_bytes = count = documents = checksum = 0

    def blocks() -> Iterator[bytes]:
        nonlocal text_bytes
        for block in reported(text_blocks(path), path, "encoding", progress):
            digest.update(block)
            text_bytes += len(block)
            yield block

    file.write(b" " * HEADER_BYTES)
    for ids, ended in encoded(document_parts(blocks(), document), tokenizer):
        data = ids.astype(dtype).tobytes()
        file.write(data)
        checksum = zlib.crc32(data, checksum)
        count += len(ids)
        documents += ended
    if count == 2 * documents:
        wanted = "text in it" if tokenizer.mode == "pieces" else "ASCII text in it, or set tokenizer = pieces"
        raise CorpusError(f"the text {path} is empty: there is nothing in it to learn; name a file with {wanted}")
    header = Header(
        format=FORMAT, version=CACHE_VERSION, text_sha256=digest.hexdigest(), text_bytes=text_bytes,
        tokenizer_sha256=tokenizer.sha256, document=document, token_bytes=dtype.itemsize, count=count, crc32=0,
    )  # fmt: skip
    header.crc32 = zlib.crc32(msgspec.json.encode(header), checksum)
    file.seek(0)
    file.write(msgspec.json.encode(header).ljust(HEADER_BYTES - 1) + b"\n")
    return header.text_sha256


def dtype_of(tokenizer: Tokenizer) -> np.dtype[np.unsignedinteger]:
    """The type of an id in a cache: two bytes where they are enough."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def open_token_cache(
    folder: Path, path: Path, digest: str, tokenizer: Tokenizer, document: DocumentKind
) -> TokenStream | None:
    """The cached tokens of the text `path` with SHA-256 `digest`; None if `folder` has no whole cache."""
    cache = folder / token_cache_name(path, digest, tokenizer, document)
    dtype = dtype_of(tokenizer)
    try:
        if not stat.S_ISREG(cache.stat().st_mode):
            return None
        with open(cache, "rb") as file:
            header = HEADER.decode(file.read(HEADER_BYTES))
            expected = msgspec.structs.replace(
                header, format=FORMAT, version=CACHE_VERSION, text_sha256=digest,
                tokenizer_sha256=tokenizer.sha256, document=document, token_bytes=dtype.itemsize,
            )  # fmt: skip
            if header != expected or not is_whole(file, header, dtype, tokenizer.vocab_size):
                return None
        source = FileTokenStream(cache, HEADER_BYTES, dtype)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return TokenStream(source, 0, header.count, header.text_bytes, tokenizer.token_lengths, digest, path)


def is_whole(file: BinaryIO, header: Header, dtype: np.dtype[np.unsignedinteger], vocab_size: int) -> bool:
    """Whether the rest of `file` is the ids that the header tells of, every one of them in the vocabulary."""
    size = checksum = 0
    while data := file.read(BLOCK_BYTES):
        size += len(data)
        checksum = zlib.crc32(data, checksum)
        if size > header.count * dtype.itemsize or len(data) % dtype.itemsize:
            return False
        if int(np.frombuffer(data, dtype=dtype).max()) >= vocab_size:
            return False
    unsigned = msgspec.structs.replace(header, crc32=0)
    return size == header.count * dtype.itemsize and zlib.crc32(msgspec.json.encode(unsigned), checksum) == header.crc32


def write_tokenizer(file: BinaryIO, *, tokenizer: Tokenizer, name: str) -> str:
    """Write a tokenizer, and return `name`."""
    file.write(tokenizer.to_bytes())
    return name


def open_tokenizer_cache(cache: Path) -> Tokenizer | None:
    """The tokenizer in a cache, or None if there is no whole one."""
    try:
        found = cache.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_STORED_BYTES:
            return None
        return Tokenizer.from_bytes(cache.read_bytes())
    except (OSError, TokenizerError):
        return None
