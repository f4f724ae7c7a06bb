"""Tokenizers whose tokens are pieces of 1 to 4 characters: `pieces`, which is lossless, and `ascii`.

Ids 0-3 are special, 4-259 the single bytes, the rest pieces, most used first. Encoding takes the longest piece that
matches at each position (`gpt_core.tokenizers.trie`) and single bytes where no piece matches: every byte string can be
encoded. How pieces are chosen: `gpt_core.tokenizers.training`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import TokenizerError
from gpt_core.tokenizers.base import BaseTokenizer
from gpt_core.tokenizers.protocol import FIRST_PIECE, TokenizerType, check_vocab_size
from gpt_core.tokenizers.training import ONE_WORD, choose_pieces
from gpt_core.tokenizers.trie import PieceTrie, fold_slices

MAX_PIECE_CHARACTERS = 4
MAX_PIECE_BYTES = 4 * MAX_PIECE_CHARACTERS
NO_ENDS = np.empty(0, dtype=np.int64)

# Vocabulary sizes at which the bytes per token of English prose were measured, on the text that ships with the program.
# Above 8,192 there are no more pieces that the text uses.
_MEASURED_SIZES = (260, 512, 1024, 2048, 4096, 8192)


class PieceTokenizer(BaseTokenizer):
    """Lossless tokenizer: decoding returns exactly the bytes that were encoded."""

    name: ClassVar[str] = "pieces"
    training_version: ClassVar[int] = 2
    lookahead: ClassVar[int] = MAX_PIECE_CHARACTERS
    measured_bytes_per_token: ClassVar[tuple[float, ...]] = (1.0, 2.09, 2.56, 2.86, 3.01, 3.07)

    def __init__(self, pieces: Sequence[bytes], vocab_size: int) -> None:
        """Create a tokenizer with these pieces from id 260 on.

        Raises:
            TokenizerError: There are too many pieces, or some are not pieces or equal.
        """
        super().__init__(pieces, vocab_size)
        for piece in pieces:
            if not is_piece(piece):
                raise TokenizerError(f"invalid piece: got {piece[:20]!r}, expected 1 to 4 characters in 2 to 16 bytes")
        if len(set(pieces)) != len(pieces):
            raise TokenizerError("invalid vocabulary: it has the same piece twice")
        self._trie = PieceTrie(list(pieces), FIRST_PIECE)

    @classmethod
    def train(cls, chunks: Iterable[bytes], vocab_size: int) -> Self:
        """Choose the pieces with which `chunks` need the fewest tokens. No piece crosses the end of a chunk.

        Memory is bounded: of more than 32 MiB of text, a sample is used.

        Raises:
            TokenizerError: `vocab_size` is out of range.
        """
        check_vocab_size(vocab_size)
        return cls(choose_pieces(chunks, vocab_size - FIRST_PIECE, allowed=ONE_WORD), vocab_size)

    @classmethod
    def from_body(cls, body: bytes, vocab_size: int) -> Self:
        """Return the tokenizer whose `body()` this is. Raises TokenizerError if it is not valid."""
        return cls(parse_pieces(body, vocab_size - FIRST_PIECE), vocab_size)

    @classmethod
    def estimated_bytes_per_token(cls, vocab_size: int) -> float:
        """Return the average number of bytes per token of English prose, interpolated between measured sizes."""
        return float(np.interp(np.log(vocab_size), np.log(_MEASURED_SIZES), cls.measured_bytes_per_token))

    def encode(self, data: bytes) -> NDArray[np.int32]:
        """Return the ids of `data`, without special ids."""
        return self._encode_parts(data, NO_ENDS)

    def encode_documents(
        self, text: bytes, ends: NDArray[np.int64], is_open: bool = False
    ) -> tuple[NDArray[np.int32], bool]:
        """Encode a block of documents (see `gpt_core.tokenizers.Tokenizer`)."""
        ids = np.empty(len(text) + 2 * len(ends) + 1, dtype=np.int32)
        count, is_open = self._trie.encode_documents(text, ends, is_open, ids)
        return ids[:count].copy(), is_open

    def body(self) -> bytes:
        """Return each piece as one byte of length and the bytes of the piece."""
        return b"".join([bytes([len(piece)]) + piece for piece in self.vocabulary[FIRST_PIECE:]])

    def _encode_parts(self, text: bytes, ends: NDArray[np.int64]) -> NDArray[np.int32]:
        ids = np.empty(len(text), dtype=np.int32)
        return ids[: self._trie.encode(text, ends, ids)].copy()


class AsciiTokenizer(PieceTokenizer):
    """Tokenizer that folds text as the Go project does.

    Text is reduced to lower-case ASCII, split at white space, and each word is cut into slices of four bytes, which are
    encoded separately. Folding is not reversible: decoding returns the words without white space between them.
    """

    name: ClassVar[str] = "ascii"
    lookahead: ClassVar[int] = 0
    is_lossless: ClassVar[bool] = False
    measured_bytes_per_token: ClassVar[tuple[float, ...]] = (1.22, 2.39, 2.93, 3.35, 3.60, 3.71)

    @classmethod
    def train(cls, chunks: Iterable[bytes], vocab_size: int) -> Self:
        """Choose the pieces with which the slices of `chunks` need the fewest tokens (see `PieceTokenizer.train`).

        Pieces may mix letters with other characters.
        """
        check_vocab_size(vocab_size)
        lines = (chunk + b"\n" for chunk in chunks)  # a word ends where its chunk ends
        return cls(choose_pieces(lines, vocab_size - FIRST_PIECE, fold=fold_slices), vocab_size)

    def encode(self, data: bytes) -> NDArray[np.int32]:
        """Return the ids of the folded `data`, without special ids."""
        return self._encode_parts(*fold_slices(data))

    def encode_documents(
        self, text: bytes, ends: NDArray[np.int64], is_open: bool = False
    ) -> tuple[NDArray[np.int32], bool]:
        """Encode a block of documents one by one, because folding moves the places where they end."""
        return BaseTokenizer.encode_documents(self, text, ends, is_open)


def is_piece(piece: bytes) -> bool:
    """Return True if `piece` is 1 to 4 complete characters in 2 or more bytes (single bytes have ids already)."""
    try:
        return 2 <= len(piece) <= MAX_PIECE_BYTES and len(piece.decode()) <= MAX_PIECE_CHARACTERS
    except UnicodeDecodeError:
        return False


def parse_pieces(body: bytes, max_pieces: int) -> list[bytes]:
    """Return the pieces in a body, each preceded by its length. Raises TokenizerError if the body is not valid."""
    pieces: list[bytes] = []
    at = 0
    while at < len(body):
        if len(pieces) == max_pieces:
            raise TokenizerError("the tokenizer is damaged: it has more pieces than its vocabulary has ids")
        end = at + 1 + body[at]
        pieces.append(body[at + 1 : end])
        if end > len(body):
            raise TokenizerError("the tokenizer is damaged: it ends inside a piece")
        at = end
    return pieces


if TYPE_CHECKING:  # the registry imports these classes by name, where mypy cannot check them
    _implementations: tuple[TokenizerType, ...] = (PieceTokenizer, AsciiTokenizer)
