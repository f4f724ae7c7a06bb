"""Text as a stream of token ids, read in pieces from memory or from an open file."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import CorpusError, TokenizerError
from gpt_core.progress import Progress, ignore_progress
from gpt_core.tokenizers import BOS, Tokenizer
from gpt_core.tokenizers.blocks import join_parts

SEARCH_TOKENS = 1 << 16  # tokens per read when searching for the start of a document
MIN_TOKENS = 2  # an input and its target
MAX_HELD_OUT_TOKENS = 2_000_000
"""Maximum size of a held-out end. The last evaluation of a run scores all of it, which would take hours for a tenth of
10 GB. The losses of single tokens vary by about 3 nats: their mean over so many has a standard error of 0.002."""


class TokenSource(Protocol):
    """Storage of token ids."""

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """Return the `count` ids from `start` on, all of which must exist. Shape: (count,)."""


class MemorySource:
    """Ids in an array."""

    def __init__(self, ids: NDArray[np.int32]) -> None:
        self._ids = ids

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """Return a view of the ids."""
        return self._ids[start : start + count]


class FileSource:
    """Ids in an open file.

    They are read rather than memory-mapped: if the file shrinks during training, a read fails with an error message,
    where access to a map would end the process with SIGBUS. A file that is deleted in the meantime remains readable.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype[np.unsignedinteger]) -> None:
        """Open the file.

        Args:
            path: File of ids.
            offset: Offset of the first id in bytes.
            dtype: Type of an id.

        Raises:
            OSError: The file cannot be opened.
        """
        self._path = path
        self._offset = offset
        self._dtype = dtype
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """Read the ids from the file. Raises CorpusError if it has become too short or cannot be read."""
        size = count * self._dtype.itemsize
        try:
            data = self._read_at(self._offset + start * self._dtype.itemsize, size)
        except OSError as error:
            raise CorpusError(f"cannot read the token cache {self._path}: {error.strerror}") from error
        if len(data) != size:
            raise CorpusError(
                f"the token cache {self._path} was cut short while in use: got {len(data)} bytes, expected {size}; "
                "start the program again to rebuild it"
            )
        return np.frombuffer(data, dtype=self._dtype)

    def _read_at(self, place: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, place)
        with self._lock:  # Windows has no pread
            os.lseek(self._descriptor, place, os.SEEK_SET)
            return os.read(self._descriptor, size)


@dataclass(frozen=True)
class TokenStream:
    """Stream of token ids: for each document `<bos>` (if `separator` is None), its tokens, `<eos>`."""

    source: TokenSource
    start: int
    """Offset of the first token in the source."""
    count: int
    """Number of tokens."""
    bytes: int
    """Bytes of the text in UTF-8 that the tokens encode, including blank lines between documents."""
    token_lengths: NDArray[np.unsignedinteger]
    """Bytes of each id. Shape: (V,)."""
    sha256: str
    """Hex digest of the text; of a held-out part: of that digest and the place of the part."""
    name: str
    """Name of the text; "" where it is not from files."""
    documents: int
    """Number of documents that begin in it."""
    separator: int | None = None
    """Id of `<eos>` where documents begin after it: they have no `<bos>`, or the same id is both. None otherwise."""
    bos: int | None = BOS
    """Id of `<bos>`, with which documents begin; None where they have none."""

    def __len__(self) -> int:
        return self.count

    @property
    def target_bytes(self) -> int:
        """Bytes of the text without its first token, which nothing predicts: the denominator of bits per byte.

        They are all bytes where the text begins with `<bos>`.

        Raises:
            CorpusError: The source cannot be read.
        """
        return self.bytes - bytes_between(self, 0, 1)

    def read(self, start: int, count: int) -> NDArray[np.int32]:
        """Return `count` ids from `start` on, fewer at the end of the text. Shape: (at most count,).

        Raises:
            CorpusError: The source cannot be read.
        """
        count = max(0, min(count, self.count - start))
        return self.source.read(self.start + start, count).astype(np.int32)

    def document_starts(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the offsets from `start` up to `end`, which is excluded, at which documents begin.

        Raises:
            CorpusError: The source cannot be read.
        """
        end = min(end, self.count)
        if end <= start:
            return np.empty(0, dtype=np.int64)
        begins = np.ones(end - start, dtype=np.bool_)
        if self.bos is not None:
            begins &= self.read(start, end - start) == self.bos
        if self.separator is not None:
            first = self.start + start  # in the source
            before = self.source.read(max(first - 1, 0), end - start - (first == 0)) == self.separator
            begins &= before if first else np.concatenate([[True], before])
        return np.flatnonzero(begins) + start


def encode_parts(
    parts: Iterable[tuple[bytes, bool]], tokenizer: Tokenizer, threads: int = 1
) -> Iterator[tuple[NDArray[np.int32], int]]:
    """Encode documents given in parts (see `gpt_core.text.documents.document_parts`), a block at a time.

    Args:
        parts: Pairs of text and whether the document ends with it.
        tokenizer: Encodes the blocks; it is used by several threads at once.
        threads: Number of blocks that are encoded at once.

    Yields:
        Pairs of ids and the number of documents that end in them.

    Raises:
        TokenizerError: An id is not in the vocabulary: a registered tokenizer is wrong.
    """
    with ThreadPoolExecutor(threads, "encoder") as pool:
        pending: deque[tuple[Future[tuple[NDArray[np.int32], bool]], int]] = deque()
        is_open = False
        for text, ends in join_parts(parts):
            pending.append((_submit(pool, tokenizer.encode_documents, text, ends, is_open), len(ends)))
            is_open = len(ends) == 0 or int(ends[-1]) < len(text)
            if len(pending) > threads:
                job, ended = pending.popleft()
                yield _checked_ids(job.result()[0], tokenizer), ended
        for job, ended in pending:
            yield _checked_ids(job.result()[0], tokenizer), ended


def _checked_ids(ids: NDArray[np.int32], tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return the ids that a tokenizer has encoded. Raises TokenizerError if one is not in its vocabulary."""
    if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
        raise TokenizerError(
            f"the tokenizer {tokenizer.name} encodes to ids from {ids.min()} to {ids.max()}, expected 0 to "
            f"{tokenizer.vocab_size - 1}; correct its `encode`, or set vocab_size to a larger number"
        )
    return ids


def _submit(
    pool: ThreadPoolExecutor, encode: Callable[..., tuple[NDArray[np.int32], bool]], *block: object
) -> Future[tuple[NDArray[np.int32], bool]]:
    """Encode a block in a thread of the pool, or in this one if the system allows no more threads."""
    try:
        return pool.submit(encode, *block)
    except RuntimeError:
        done: Future[tuple[NDArray[np.int32], bool]] = Future()
        done.set_result(encode(*block))
        return done


def marks_per_document(tokenizer: Tokenizer) -> int:
    """Return the number of special ids of a document: `<eos>`, and `<bos>` if the tokenizer adds it."""
    return 1 + tokenizer.adds_bos


def tokens_of_documents(documents: Iterable[bytes], tokenizer: Tokenizer) -> TokenStream:
    """Encode a few documents in memory.

    Raises:
        CorpusError: They have no tokens.
        TokenizerError: An id is not in the vocabulary.
    """
    texts = list(documents)
    blocks = [ids for ids, _ in encode_parts(((text, True) for text in texts), tokenizer)]
    ids = np.concatenate([np.empty(0, dtype=np.int32), *blocks])
    if len(ids) == len(texts) * marks_per_document(tokenizer):
        raise CorpusError("no tokens to train on: got only empty documents, expected text")
    digest = hashlib.sha256(b"\n".join(texts)).hexdigest()
    size = sum(len(text) for text in texts)
    return stream_of(MemorySource(ids), len(ids), size, tokenizer, digest, "", len(texts))


def stream_of(
    ids: TokenSource,
    count: int,
    size: int,
    tokenizer: Tokenizer,
    sha256: str,
    name: str,
    documents: int,
    progress: Progress = ignore_progress,
) -> TokenStream:
    """Return all tokens of a source, which encode a text of `size` bytes, or what a lossy tokenizer keeps of it."""
    bos = tokenizer.BOS if tokenizer.adds_bos else None
    separator = tokenizer.EOS if bos in (None, tokenizer.EOS) else None
    lengths = tokenizer.token_lengths
    text = TokenStream(ids, 0, count, size, lengths, sha256, name, documents, separator, bos)
    return text if tokenizer.is_lossless else replace(text, bytes=bytes_between(text, 0, count, progress))


def held_out_fraction(tokens: int, val_frac: float) -> float:
    """Return the fraction of a text of `tokens` tokens to hold out: `val_frac`, or less of a very long text."""
    return min(val_frac, MAX_HELD_OUT_TOKENS / max(tokens, 1))


def split_held_out(
    text: TokenStream, val_frac: float, progress: Progress = ignore_progress
) -> tuple[TokenStream, TokenStream]:
    """Split a text into its beginning, to train on, and about `val_frac` of it at its end, held out for evaluation.

    At most MAX_HELD_OUT_TOKENS are held out. The split is at the first start of a document after the exact place, else
    at the last one before it. If neither leaves from half to twice that fraction at the end, it is inside a document,
    at the exact place. The bytes of the text are divided in proportion to those of the tokens on either side.

    Returns:
        The training text and the held-out text, at least two tokens each.

    Raises:
        CorpusError: The text has fewer than four tokens.
    """
    if text.count < 2 * MIN_TOKENS:
        raise CorpusError(
            f"the text {text.name} is too short to hold out a part for evaluation: got {text.count} tokens, expected "
            f"at least {2 * MIN_TOKENS}; use a longer text, or set eval_file to another one"
        )
    last = text.count - MIN_TOKENS
    fraction = held_out_fraction(text.count, val_frac)
    first, place, latest = (
        min(max(round(text.count * (1 - share)), MIN_TOKENS), last)
        for share in (held_out_fraction(text.count, 2 * fraction), fraction, fraction / 2)
    )
    cut = _first_document_from(text, place, latest) or _last_document_before(text, place, first) or place
    token_bytes = [bytes_between(text, 0, cut, progress), bytes_between(text, cut, text.count)]
    held_out_bytes = round(text.bytes * token_bytes[1] / max(sum(token_bytes), 1))
    documents = _documents_from(text, cut)
    train = replace(text, count=cut, bytes=text.bytes - held_out_bytes, documents=text.documents - documents)
    start, count = text.start + cut, text.count - cut
    digest = hashlib.sha256(f"{text.sha256} {start} {count}".encode()).hexdigest()
    held_out = replace(text, start=start, count=count, bytes=held_out_bytes, sha256=digest, documents=documents)
    return train, held_out


def _documents_from(text: TokenStream, start: int) -> int:
    """Return the number of documents that begin at the token `start` or after it."""
    return sum(
        len(text.document_starts(begin, begin + SEARCH_TOKENS)) for begin in range(start, text.count, SEARCH_TOKENS)
    )


def _first_document_from(text: TokenStream, start: int, last: int) -> int | None:
    """Return the first offset from `start` to `last` at which a document begins."""
    for begin in range(start, last + 1, SEARCH_TOKENS):
        found = text.document_starts(begin, min(begin + SEARCH_TOKENS, last + 1))
        if len(found):
            return int(found[0])
    return None


def _last_document_before(text: TokenStream, end: int, first: int) -> int | None:
    """Return the last offset from `first` to before `end` at which a document begins."""
    while end > first:
        begin = max(first, end - SEARCH_TOKENS)
        found = text.document_starts(begin, end)
        if len(found):
            return int(found[-1])
        end = begin
    return None


def bytes_between(text: TokenStream, start: int, end: int, progress: Progress = ignore_progress) -> int:
    """Return the number of bytes that the tokens from `start` to `end` encode."""
    size = 0
    for begin in range(start, end, SEARCH_TOKENS):
        if begin > start:  # a short text is read at once
            progress("counting the bytes of the text", (begin - start) / (end - start))
        size += int(text.token_lengths[text.read(begin, min(SEARCH_TOKENS, end - begin))].sum(dtype=np.int64))
    return size
