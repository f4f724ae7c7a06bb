"""Base class of tokenizers: everything that follows from the vocabulary and `encode`.

A subclass defines `name`, `encode`, `train` and `from_body`, and `body` where it has more than single bytes. Its
vocabulary is the special ids, the 256 single bytes and any number of further tokens, unless it sets another one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import TokenizerError
from gpt_core.tokenizers import storage
from gpt_core.tokenizers.protocol import (
    BOS,
    EOS,
    FIRST_BYTE,
    FIRST_PIECE,
    PAD,
    SPECIAL_NAMES,
    UNK,
    check_vocab_size,
)


class BaseTokenizer(ABC):
    """Everything that follows from the vocabulary, the special ids and `encode`."""

    PAD: int = PAD
    BOS: int = BOS
    EOS: int = EOS
    UNK: int = UNK
    adds_bos: bool = True
    special: Mapping[int, str] = dict(enumerate(SPECIAL_NAMES))
    """Names of the special ids"""
    name: ClassVar[str]
    training_version: ClassVar[int] = 1
    lookahead: ClassVar[int] = 0
    is_lossless: ClassVar[bool] = True
    vocab_size: int
    vocabulary: list[bytes]

    def __init__(self, pieces: Sequence[bytes], vocab_size: int) -> None:
        """Create a tokenizer with `pieces` from id 260 on.

        Raises:
            TokenizerError: `vocab_size` is out of range, or too small for the pieces.
        """
        check_vocab_size(vocab_size)
        if len(pieces) > vocab_size - FIRST_PIECE:
            raise TokenizerError(f"{len(pieces):,} pieces do not fit in a vocabulary of {vocab_size:,} ids")
        self.vocab_size = vocab_size
        self.vocabulary = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)] + list(pieces)

    @classmethod
    @abstractmethod
    def train(cls, chunks: Iterable[bytes], vocab_size: int) -> Self:
        """Train on chunks of text (see `gpt_core.tokenizers.TokenizerType`)."""

    @classmethod
    @abstractmethod
    def from_body(cls, body: bytes, vocab_size: int) -> Self:
        """Return the tokenizer whose `body()` this is. Raises TokenizerError if it is not valid."""

    @abstractmethod
    def encode(self, data: bytes) -> NDArray[np.int32]:
        """Return the ids of `data`, without special ids."""

    @classmethod
    def estimated_bytes_per_token(cls, vocab_size: int) -> float:
        """Return the average number of bytes per token of English prose: 1 unless measured."""
        return 1.0

    @cached_property
    def token_lengths(self) -> NDArray[np.unsignedinteger]:
        """Number of bytes of each id. Shape: (V,)."""
        found = [len(piece) for piece in self.vocabulary]
        lengths = np.zeros(self.vocab_size, dtype=np.min_scalar_type(max(found, default=0)))
        lengths[: len(found)] = found
        return lengths

    @cached_property
    def sha256(self) -> str:
        """Hex digest of `to_bytes()`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def encode_documents(
        self, text: bytes, ends: NDArray[np.int64], is_open: bool = False
    ) -> tuple[NDArray[np.int32], bool]:
        """Encode a block of documents, one document at a time (see `Tokenizer.encode_documents`)."""
        opening = [self.BOS] if self.adds_bos else []
        ids: list[int] = []
        begin = 0
        for end in ends.tolist():
            ids += [] if is_open else opening
            ids += [*self.encode(text[begin:end]).tolist(), self.EOS]
            begin, is_open = end, False
        if begin < len(text):
            ids += [] if is_open else opening
            ids += self.encode(text[begin:]).tolist()
            is_open = True
        return np.array(ids, dtype=np.int32), is_open

    def decode(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of the ids; special and unused ids have none. Raises ValueError for an id out of range."""
        return b"".join([self.token_bytes(token) for token in ids])

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id; b"" for special and unused ids. Raises ValueError for an id out of range."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token id: got {token}, expected 0 to {self.vocab_size - 1}")
        return self.vocabulary[token] if token < len(self.vocabulary) else b""

    def describe(self, token: int) -> str:
        """Return one id as printable text: spaces as `␣`, unprintable characters escaped, special ids by name."""
        if token in self.special:
            return self.special[token]
        text = self.token_bytes(token).decode("utf-8", "backslashreplace")
        if not text:
            return "<unused>"
        return "".join("␣" if c == " " else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    def body(self) -> bytes:
        """Return what `from_body` needs besides the vocabulary size."""
        return b""

    def __reduce__(self) -> tuple[Callable[[bytes, int], Self], tuple[bytes, int]]:
        return self.from_body, (self.body(), self.vocab_size)

    def to_bytes(self) -> bytes:
        """Serialize the tokenizer (see `gpt_core.tokenizers.storage`)."""
        return storage.pack(self.name, self.vocab_size, self.body())
