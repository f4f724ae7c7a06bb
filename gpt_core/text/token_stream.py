"""A text as token ids, read a little at a time from memory or from a file that is kept open."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import CorpusError
from gpt_core.tokenizers.pieces import BOS

SEARCH_TOKENS = 1 << 16  # read at once when looking for a document's beginning
SHORTEST_TOKENS = 2  # an input and its target


class TokenSource(Protocol):
    """Where ids are read from."""

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """The ids from `start` on: exactly `count`, which the caller knows to be there."""


class MemoryTokenStream:
    """Ids in an array."""

    def __init__(self, ids: NDArray[np.int32]) -> None:
        self._ids = ids

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """A view of them."""
        return self._ids[start : start + count]


class FileTokenStream:
    """Ids in an open file.

    They are read and not memory-mapped: a file that shrinks while training reads it gives an error with a message,
    where a map would end the process with SIGBUS; and a file that is deleted meanwhile goes on being read.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype[np.unsignedinteger]) -> None:
        """`offset`: bytes of the file before the first id. Raises OSError."""
        self._path = path
        self._offset = offset
        self._dtype = dtype
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """From the file. Raises CorpusError where it has become shorter or cannot be read."""
        size = count * self._dtype.itemsize
        try:
            data = self._read_at(self._offset + start * self._dtype.itemsize, size)
        except OSError as error:
            raise CorpusError(f"cannot read the token cache {self._path}: {error.strerror}") from error
        if len(data) != size:
            raise CorpusError(
                f"the token cache {self._path} was cut short while in use: wanted {size} bytes, got {len(data)}; "
                "start again, and it is made anew"
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
    """A stream of token ids: documents, each `<bos> pieces <eos>`, one after another."""

    source: TokenSource
    start: int
    """The place in the source where this text begins."""
    count: int
    """Tokens."""
    bytes: int
    """Bytes of the text file that the tokens stand for, blank lines between documents included: bits a byte are the
    bits of all targets over this number."""
    token_lengths: NDArray[np.uint8]
    """(V,): the bytes each id stands for."""
    sha256: str
    """Of the bytes of the text."""
    path: Path | None
    """The text file; None where the text is not a file's."""

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, count: int) -> NDArray[np.int32]:
        """(count,): the ids from `start` on; fewer where the text ends. Raises CorpusError if that fails."""
        count = max(0, min(count, self.count - start))
        return self.source.read(self.start + start, count).astype(np.int32)


def split_held_out(text: TokenStream, val_frac: float) -> tuple[TokenStream, TokenStream]:
    """Cut about `val_frac` of the text off its end: (what to train on, what is held out).

    The cut is the document boundary nearest behind the place that `val_frac` says, else the nearest before it; a text
    of one document is cut inside it. Bytes are shared out by what the tokens on either side stand for. Raises
    CorpusError if the text is too short to be cut in two.
    """
    if text.count < 2 * SHORTEST_TOKENS:
        raise CorpusError(
            f"the text {text.path} has {text.count} tokens, too few to hold some out for evaluation; "
            "use a longer one, or name an --eval-file"
        )
    last = text.count - SHORTEST_TOKENS
    place = min(max(round(text.count * (1 - val_frac)), SHORTEST_TOKENS), last)
    cut = first_document_after(text, place, last) or last_document_before(text, place) or place
    bytes_of_pieces = [piece_bytes(text, 0, cut), piece_bytes(text, cut, text.count)]
    held_out_bytes = round(text.bytes * bytes_of_pieces[1] / max(sum(bytes_of_pieces), 1))
    train = replace(text, count=cut, bytes=text.bytes - held_out_bytes)
    return train, replace(text, start=text.start + cut, count=text.count - cut, bytes=held_out_bytes)


def first_document_after(text: TokenStream, start: int, last: int) -> int | None:
    """The first place from `start` to `last` at which a document begins."""
    for begin in range(start, last + 1, SEARCH_TOKENS):
        found = np.flatnonzero(text.read(begin, min(SEARCH_TOKENS, last + 1 - begin)) == BOS)
        if len(found):
            return begin + int(found[0])
    return None


def last_document_before(text: TokenStream, end: int) -> int | None:
    """The last place before `end` at which a document begins, leaving at least two tokens before it."""
    while end > SHORTEST_TOKENS:
        begin = max(SHORTEST_TOKENS, end - SEARCH_TOKENS)
        found = np.flatnonzero(text.read(begin, end - begin) == BOS)
        if len(found):
            return begin + int(found[-1])
        end = begin
    return None


def piece_bytes(text: TokenStream, start: int, end: int) -> int:
    """The bytes that the tokens from `start` to `end` stand for."""
    return sum(
        int(text.token_lengths[text.read(begin, min(SEARCH_TOKENS, end - begin))].sum(dtype=np.int64))
        for begin in range(start, end, SEARCH_TOKENS)
    )
