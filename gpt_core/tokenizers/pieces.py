"""What text is made of: a tokenizer of pieces of 1 to 4 characters, how its pieces are chosen, and how it is stored.

Ids: 0-3 are `<pad> <bos> <eos> <unk>`, 4..259 the 256 single bytes, the rest pieces, the most used first. Bytes that no
piece covers are encoded as single bytes, so every byte string encodes and decodes back to the same bytes. Encoding
takes the longest piece that fits at each place (`gpt_core.tokenizers.trie`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import TokenizerError
from gpt_core.tokenizers.trie import PieceTrie, fold_slices

Mode = Literal["pieces", "seed"]
PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL_NAMES = ("<pad>", "<bos>", "<eos>", "<unk>")
FIRST_BYTE = len(SPECIAL_NAMES)
FIRST_PIECE = FIRST_BYTE + 256
MAX_VOCAB_SIZE = 1 << 20
MAX_PIECE_CHARACTERS = 4
MAX_PIECE_BYTES = 4 * MAX_PIECE_CHARACTERS

FORMAT = "gpt-tui tokenizer"
VERSION = 1
MAX_HEADER_BYTES = 256
DIGEST_BYTES = 32
MAX_STORED_BYTES = MAX_HEADER_BYTES + MAX_VOCAB_SIZE * (1 + MAX_PIECE_BYTES) + DIGEST_BYTES
NO_ENDS = np.empty(0, dtype=np.int64)


class Tokenizer:
    """Turns bytes into ids and back; immutable. `train_tokenizer` and `from_bytes` make one.

    On a small text there may be fewer pieces than `vocab_size` has room for: the ids past them are never produced, and
    stand for nothing.

    In `seed` mode the text is folded before it is encoded, as the Go project does it: lower-case, ASCII only, split on
    white space, each word cut into slices of four bytes. That loses what is folded away: decoding gives the words
    glued.
    """

    PAD, BOS, EOS, UNK = PAD, BOS, EOS, UNK

    def __init__(self, chosen: Sequence[bytes], vocab_size: int, mode: Mode) -> None:
        """`chosen`: the pieces from id 260 on. Raises TokenizerError if they are not a vocabulary."""
        check_vocab_size(vocab_size)
        if len(chosen) > vocab_size - FIRST_PIECE:
            raise TokenizerError(f"{len(chosen):,} pieces do not fit in a vocabulary of {vocab_size:,} ids")
        for piece in chosen:
            if not is_piece(piece):
                raise TokenizerError(f"a piece is 1 to 4 characters in 2 to 16 bytes, got {piece[:20]!r}")
        if len(set(chosen)) != len(chosen):
            raise TokenizerError("the vocabulary has the same piece twice")
        self.vocab_size = vocab_size
        self.mode = checked_mode(mode)
        self.pieces: list[bytes] = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)] + list(chosen)
        self._matcher = PieceTrie(list(chosen), FIRST_PIECE)

    def encode(self, data: bytes) -> NDArray[np.int32]:
        """The ids of `data`, without special ones."""
        text, ends = fold_slices(data) if self.mode == "seed" else (data, NO_ENDS)
        ids = np.empty(len(text), dtype=np.int32)
        return ids[: self._matcher.encode(text, ends, ids)].copy()

    def encode_documents(
        self, text: bytes, ends: NDArray[np.int64], is_open: bool = False
    ) -> tuple[NDArray[np.int32], bool]:
        """The ids of a stretch of documents that end at `ends`: `<bos> pieces <eos>` each, and whether the last is
        open.

        A document may go on over several stretches: `is_open` says that the text begins inside one, and what follows
        the last end stays open for the next stretch. A piece never crosses a stretch.
        """
        if self.mode == "seed":
            return self._encode_documents_folded(text, ends, is_open)
        ids = np.empty(len(text) + 2 * len(ends) + 1, dtype=np.int32)
        count, is_open = self._matcher.encode_documents(text, ends, is_open, ids)
        return ids[:count].copy(), is_open

    def _encode_documents_folded(
        self, text: bytes, ends: NDArray[np.int64], is_open: bool
    ) -> tuple[NDArray[np.int32], bool]:
        """`encode_documents` in seed mode: documents are encoded one by one, as folding changes where they end."""
        ids: list[int] = []
        begin = 0
        for end in ends.tolist():
            ids += [] if is_open else [BOS]
            ids += [*self.encode(text[begin:end]).tolist(), EOS]
            begin, is_open = end, False
        if begin < len(text):
            ids += [] if is_open else [BOS]
            ids += self.encode(text[begin:]).tolist()
            is_open = True
        return np.array(ids, dtype=np.int32), is_open

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes the ids stand for; special and unused ids give none. Raises ValueError for one out of range."""
        return b"".join([self.token_bytes(token) for token in ids])

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id: empty for special and unused ones. Raises ValueError for an id out of range."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"ids run from 0 to {self.vocab_size - 1}, got {token}")
        return self.pieces[token] if token < len(self.pieces) else b""

    def describe(self, token: int) -> str:
        """One id as visible text: spaces as `␣`, what cannot be printed escaped, special ones by name."""
        if 0 <= token < FIRST_BYTE:
            return SPECIAL_NAMES[token]
        text = self.token_bytes(token).decode("utf-8", "backslashreplace")
        if not text:
            return "<unused>"
        return "".join("␣" if c == " " else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    @cached_property
    def token_lengths(self) -> NDArray[np.uint8]:
        """(V,): the bytes each id stands for."""
        lengths = np.zeros(self.vocab_size, dtype=np.uint8)
        lengths[: len(self.pieces)] = [len(piece) for piece in self.pieces]
        return lengths

    @cached_property
    def sha256(self) -> str:
        """Hex digest of `to_bytes()`: two tokenizers with the same digest give the same ids."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """A line of JSON, each piece from id 260 on as a byte of length and its bytes, and the SHA-256 of all that."""
        header = msgspec.json.encode(Header(FORMAT, VERSION, self.mode, self.vocab_size))
        data = b"".join([header, b"\n", *(bytes([len(piece)]) + piece for piece in self.pieces[FIRST_PIECE:])])
        return data + hashlib.sha256(data).digest()

    @staticmethod
    def from_bytes(data: bytes) -> Tokenizer:
        """The tokenizer that `to_bytes` wrote. Raises TokenizerError for anything else, before using much memory."""
        first_line = data[: data.find(b"\n", 0, MAX_HEADER_BYTES) + 1]
        try:
            header = _HEADER.decode(first_line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TokenizerError(f"this is not a tokenizer, or a damaged one: its header: {error}") from error
        if header.format != FORMAT or header.version != VERSION:
            raise TokenizerError(
                f"this is not a tokenizer that this program reads: got {header.format!r} version {header.version}, "
                f"wanted {FORMAT!r} version {VERSION}"
            )
        body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if len(data) > MAX_STORED_BYTES or hashlib.sha256(body).digest() != digest:
            raise TokenizerError("the tokenizer is damaged: its bytes do not have the checksum that ends them")
        check_vocab_size(header.vocab_size)
        pieces = parse_pieces(body, len(first_line), header.vocab_size - FIRST_PIECE)
        return Tokenizer(pieces, header.vocab_size, header.mode)


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """The first line of a stored tokenizer."""

    format: str
    version: int
    mode: Mode
    vocab_size: int


_HEADER = msgspec.json.Decoder(Header)


def check_vocab_size(vocab_size: int) -> None:
    """Raise TokenizerError unless a vocabulary can have this many ids."""
    if not FIRST_PIECE <= vocab_size <= MAX_VOCAB_SIZE:
        raise TokenizerError(f"vocab_size must be from {FIRST_PIECE} to {MAX_VOCAB_SIZE:,}, got {vocab_size:,}")


def checked_mode(mode: object) -> Mode:
    """`mode`, if it is one. Raises TokenizerError otherwise."""
    if mode != "pieces" and mode != "seed":
        raise TokenizerError(f"the tokenizer's mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    return mode


def is_piece(piece: bytes) -> bool:
    """Whether `piece` is 1 to 4 whole characters in more than one byte (single bytes have ids of their own)."""
    try:
        return 2 <= len(piece) <= MAX_PIECE_BYTES and len(piece.decode()) <= MAX_PIECE_CHARACTERS
    except UnicodeDecodeError:
        return False


def parse_pieces(data: bytes, at: int, most: int) -> list[bytes]:
    """The pieces that lie in `data` from `at` on, each with its length before it. Raises TokenizerError past `most`."""
    pieces: list[bytes] = []
    while at < len(data):
        if len(pieces) == most:
            raise TokenizerError("the tokenizer is damaged: it has more pieces than its vocabulary has room for")
        end = at + 1 + data[at]
        pieces.append(data[at + 1 : end])
        if end > len(data):
            raise TokenizerError("the tokenizer is damaged: it ends in the middle of a piece")
        at = end
    return pieces
