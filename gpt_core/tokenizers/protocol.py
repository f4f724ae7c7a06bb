"""Interfaces of tokenizers, the special ids of those of this program, and the bounds on the vocabulary size.

This module and the registry import the standard library and the errors only, because the settings list the registered
names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from gpt_core.errors import TokenizerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPECIAL_NAMES = ("<pad>", "<bos>", "<eos>", "<unk>")  # of the ids 0 to 3 of `pieces` and `ascii`
PAD, BOS, EOS, UNK = range(len(SPECIAL_NAMES))
FIRST_BYTE = len(SPECIAL_NAMES)  # id of the byte 0; byte b has the id FIRST_BYTE + b
FIRST_PIECE = FIRST_BYTE + 256
MAX_VOCAB_SIZE = 1 << 20
SAMPLE_BYTES = 32 << 20  # maximum amount of text that a tokenizer is trained on


class Tokenizer(Protocol):
    """Immutable mapping between bytes and token ids.

    There may be fewer tokens than `vocab_size`: ids past the end of `vocabulary` are unused; encoding never produces
    them.

    Attributes:
        PAD: Id of padding. The special ids are 0 to 3 in tokenizers of this program; those of other programs may use
            one id for all of them.
        BOS: Id of the beginning of a document.
        EOS: Id of the end of a document.
        UNK: Id of what cannot be encoded.
    """

    PAD: int
    BOS: int
    EOS: int
    UNK: int

    @property
    def adds_bos(self) -> bool:
        """True if documents and prompts begin with `<bos>`; else a document begins after the `<eos>` of another."""

    @property
    def name(self) -> str:
        """Name in the registry, which is also the value of the setting `tokenizer`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids (V), unused ones included."""

    @property
    def vocabulary(self) -> Sequence[bytes]:
        """Bytes of each id, at most V of them; empty for special ids."""

    @property
    def lookahead(self) -> int:
        """Maximum number of characters, from the start of a token on, on which the choice of the token depends.

        0 where no token depends on the text after it. Generation uses it to find the tokens at the end of a prompt that
        a continuation could change.
        """

    @property
    def is_lossless(self) -> bool:
        """True if decoding returns the bytes that were encoded. Else scores per byte are of the encoded bytes alone."""

    @property
    def token_lengths(self) -> NDArray[np.unsignedinteger]:
        """Number of bytes of each id. Shape: (V,)."""

    @property
    def sha256(self) -> str:
        """Hex digest of `to_bytes()`. Tokenizers with equal digests produce equal ids."""

    def encode(self, data: bytes) -> NDArray[np.int32]:
        """Return the ids of `data`, without special ids."""

    def encode_documents(
        self, text: bytes, ends: NDArray[np.int64], is_open: bool = False
    ) -> tuple[NDArray[np.int32], bool]:
        """Encode a block of documents: `<bos>` (if `adds_bos`), tokens, `<eos>` for each.

        A document may span several blocks. No token crosses the end of a block.

        Args:
            text: Concatenated documents.
            ends: Offsets in `text` at which documents end, ascending. Text after the last one begins a document that
                the next block continues.
            is_open: The block begins inside a document.

        Returns:
            The ids, and whether the last document continues in the next block.
        """

    def decode(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of the ids; special and unused ids have none. Raises ValueError for an id out of range."""

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id; b"" for special and unused ids. Raises ValueError for an id out of range."""

    def describe(self, token: int) -> str:
        """Return one id as printable text: spaces as `␣`, unprintable characters escaped, special ids by name."""

    def to_bytes(self) -> bytes:
        """Serialize the tokenizer in a form that `gpt_core.tokenizers.from_bytes` reads."""


class TokenizerType(Protocol):
    """Class of tokenizers, as the registry holds it."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def training_version(self) -> int:
        """Version of the training algorithm; increase it when the same text yields another vocabulary."""

    def train(self, chunks: Iterable[bytes], vocab_size: int) -> Tokenizer:
        """Train on chunks of text, which are later encoded separately. Deterministic.

        Raises:
            TokenizerError: `vocab_size` is out of range.
        """

    def from_body(self, body: bytes, vocab_size: int) -> Tokenizer:
        """Return the tokenizer that was serialized with this body (see `gpt_core.tokenizers.storage`).

        Raises:
            TokenizerError: The body is not valid.
        """

    def estimated_bytes_per_token(self, vocab_size: int) -> float:
        """Return the average number of bytes per token of English prose."""


def check_vocab_size(vocab_size: int) -> None:
    """Raise TokenizerError unless `vocab_size` is within the bounds of every tokenizer."""
    if not FIRST_PIECE <= vocab_size <= MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size: got {vocab_size:,}, expected a whole number from {FIRST_PIECE} to {MAX_VOCAB_SIZE:,}"
        )
