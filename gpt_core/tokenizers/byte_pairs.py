"""Byte-pair encoding as in GPT-2 (Sennrich et al. 2016; Radford et al. 2019), by the package `tokenizers`.

Text is split into words by GPT-2's pattern; within a word, the pair of neighboring tokens whose merge comes first in
the list is merged, until there is none. The names of tokens are those of `vocab.json`: one printable character per byte
(`byte_level`). Special tokens have no bytes, and text that spells one is encoded as any other text, so that decoding
returns exactly the bytes that were encoded. `tokenizers` takes valid UTF-8: bytes that are not get their own tokens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from gpt_core.errors import MissingPackageError, TokenizerError
from gpt_core.tokenizers import byte_level
from gpt_core.tokenizers.base import BaseTokenizer
from gpt_core.tokenizers.protocol import TokenizerType, check_vocab_size

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
# Vocabulary sizes at which the bytes per token of English prose were measured, on the text that ships with the program.
_MEASURED_SIZES = (260, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_MEASURED_BYTES_PER_TOKEN = (1.06, 2.14, 2.76, 3.32, 3.77, 4.08, 4.25, 4.32)
_INVALID = re.compile("([\udc80-\udcff]+)")  # bytes that are not UTF-8, as `surrogateescape` decodes them

Pair = tuple[str, str]


class Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Serialized form of a `BytePairTokenizer`; see its attributes. A merge is two tokens with a space between them."""

    tokens: list[str]
    merges: list[str]
    special_ids: list[Annotated[int, Meta(ge=0)]]
    bos: int
    eos: int
    adds_bos: bool = False


_BODY = msgspec.json.Decoder(Body)


class BytePairTokenizer(BaseTokenizer):
    """Byte-level byte-pair encoding. As in GPT-2, documents and prompts have no `<bos>`, unless `adds_bos` is set.

    Attributes:
        tokens: Name of each id, in the characters of `byte_level`; special ones have any name.
        merges: Pairs of names, the first to be merged first.
    """

    name: ClassVar[str] = "bpe"

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[Pair],
        special_ids: Sequence[int],
        eos: int,
        bos: int | None = None,
        vocab_size: int | None = None,
        *,
        adds_bos: bool = False,
    ) -> None:
        """Create a tokenizer.

        Args:
            tokens: Name of each id.
            merges: Pairs of names, the first to be merged first.
            special_ids: Ids without bytes, `eos` and `bos` among them.
            eos: Id of the end of a document.
            bos: Id of its beginning; None for `eos`.
            vocab_size: Number of ids (V); None for the number of tokens.
            adds_bos: True if documents and prompts begin with `bos`.

        Raises:
            TokenizerError: The tokens are not those of byte-level byte-pair encoding.
            MissingPackageError: `tokenizers` is not installed.
        """
        self.vocab_size = len(tokens) if vocab_size is None else vocab_size
        check_vocab_size(self.vocab_size)
        self.tokens, self.merges = tuple(tokens), tuple(merges)
        self.BOS = eos if bos is None else bos
        self.EOS = self.PAD = self.UNK = eos
        self.adds_bos = adds_bos
        self.special = {token: self.tokens[token] for token in special_ids if 0 <= token < len(tokens)}
        if not {self.BOS, self.EOS} <= self.special.keys() or len(self.special) != len(special_ids):
            raise TokenizerError(
                f"special ids: got {str(special_ids)[:80]}, expected ids of tokens with {eos} among them"
            )
        if len(tokens) > self.vocab_size:
            raise TokenizerError(f"{len(tokens):,} tokens do not fit in a vocabulary of {self.vocab_size:,} ids")
        self.vocabulary = [b"" if token in self.special else bytes_of(name) for token, name in enumerate(self.tokens)]
        ids = {name: token for token, name in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            raise TokenizerError("invalid vocabulary: it has the same token twice")
        by_bytes = {text: token for token, text in enumerate(self.vocabulary) if len(text) == 1}
        if len(by_bytes) < 256:
            raise TokenizerError(
                f"invalid vocabulary: got {len(by_bytes)} of the 256 single bytes, expected all of them, as in "
                "byte-level byte-pair encoding"
            )
        self._byte_ids = np.array([by_bytes[bytes([byte])] for byte in range(256)], dtype=np.int32)
        self._encoder = _encoder(ids, self.merges, {self.tokens[token] for token in self.special})

    @classmethod
    def train(cls, chunks: Iterable[bytes], vocab_size: int) -> Self:
        """Choose the merges of the most frequent pairs in `chunks`. No token crosses the end of a chunk.

        Raises:
            TokenizerError: `vocab_size` is out of range.
            MissingPackageError: `tokenizers` is not installed.
        """
        check_vocab_size(vocab_size)
        package = _package()
        encoder = package.Tokenizer(package.models.BPE())
        encoder.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        trainer = package.trainers.BpeTrainer(
            vocab_size=vocab_size - 1, initial_alphabet=list(byte_level.CHARACTERS), show_progress=False
        )
        encoder.train_from_iterator((text.decode("utf-8", "ignore") for text in chunks), trainer)
        merges = [tuple(pair) for pair in msgspec.json.decode(encoder.to_str())["model"]["merges"]]
        tokens = [*byte_level.CHARACTERS, *dict.fromkeys(left + right for left, right in merges), END_OF_TEXT]
        return cls(tokens, merges, [len(tokens) - 1], len(tokens) - 1, vocab_size=vocab_size)

    @classmethod
    def from_body(cls, body: bytes, vocab_size: int) -> Self:
        """Return the tokenizer whose `body()` this is. Raises TokenizerError if it is not valid."""
        try:
            stored = _BODY.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TokenizerError(f"the tokenizer is damaged: {str(error)[:200]}") from None
        merges = pairs(stored.merges)
        return cls(
            stored.tokens, merges, stored.special_ids, stored.eos, stored.bos, vocab_size, adds_bos=stored.adds_bos
        )

    @classmethod
    def estimated_bytes_per_token(cls, vocab_size: int) -> float:
        """Return the average number of bytes per token of English prose, interpolated between measured sizes."""
        return float(np.interp(np.log(vocab_size), np.log(_MEASURED_SIZES), _MEASURED_BYTES_PER_TOKEN))

    def encode(self, data: bytes) -> NDArray[np.int32]:
        """Return the ids of `data`, without special ids."""
        return next(self._encoded([data]))

    def encode_documents(
        self, text: bytes, ends: NDArray[np.int64], is_open: bool = False
    ) -> tuple[NDArray[np.int32], bool]:
        """Encode a block of documents (see `gpt_core.tokenizers.Tokenizer`)."""
        bounds = [0, *ends.tolist()]
        texts = [text[begin:end] for begin, end in zip(bounds, [*bounds[1:], len(text)], strict=True)]
        continues = len(texts[-1]) > 0 or (is_open and not len(ends))
        opening = np.array([self.BOS] * self.adds_bos, dtype=np.int32)
        eos = np.array([self.EOS], dtype=np.int32)
        ids = [part for document in self._encoded(texts) for part in (opening, document, eos)]
        own = slice(1 if is_open else 0, -1 if continues else -3)  # without what belongs to another block, or to none
        return np.concatenate([eos[:0], *ids[own]]), continues

    def body(self) -> bytes:
        """Return the tokens, the merges and the special ids as JSON."""
        merges = [" ".join(pair) for pair in self.merges]
        return msgspec.json.encode(
            Body(list(self.tokens), merges, sorted(self.special), self.BOS, self.EOS, self.adds_bos)
        )

    def _encoded(self, texts: Sequence[bytes]) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of each text. The interpreter is free for other threads meanwhile."""
        parts = [_INVALID.split(text.decode("utf-8", "surrogateescape")) for text in texts]
        valid = [part for split in parts for part in split[::2]]
        found = iter(self._encoder.encode_batch_fast(valid, add_special_tokens=False))
        for split in parts:
            ids = np.array(next(found).ids, dtype=np.int32)
            for invalid in split[1::2]:
                single = self._byte_ids[np.frombuffer(invalid.encode("utf-8", "surrogateescape"), np.uint8)]
                ids = np.concatenate([ids, single, np.array(next(found).ids, dtype=np.int32)])
            yield ids


def unused_name(token: int) -> str:
    """Return the name by which other programs know an id that no token has."""
    return f"<unused {token}>"


def bytes_of(name: str) -> bytes:
    """Return the bytes of the token with this name. Raises TokenizerError for other characters, or none."""
    try:
        found = byte_level.to_bytes(name)
    except ValueError:
        found = b""
    if not found:
        raise TokenizerError(
            f"invalid token: got {name[:40]!r}, expected the characters of byte-level byte-pair encoding, as in "
            "GPT-2's vocab.json"
        )
    return found


def pairs(lines: Sequence[str]) -> list[Pair]:
    """Return the two names in each line of merges. Raises TokenizerError for a line that has not two."""
    found = []
    for line in lines:
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise TokenizerError(f"invalid merge: got {line[:80]!r}, expected two tokens with a space between them")
        found.append((left, right))
    return found


def _package() -> Any:
    """Return the package `tokenizers`. Raises MissingPackageError."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # blocks of text are encoded in parallel instead
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise MissingPackageError("tokenizers", "bpe") from None
    return tokenizers


def _encoder(ids: dict[str, int], merges: Sequence[Pair], special: set[str]) -> tokenizers.Tokenizer:
    """Return the encoder of valid UTF-8. Raises TokenizerError for a merge of tokens that are not in the vocabulary."""
    for pair in merges:
        for name in (*pair, "".join(pair)):
            if name not in ids or name in special:
                raise TokenizerError(f"invalid merge {' '.join(pair)[:80]!r}: {name[:40]!r} is not in the vocabulary")
    package = _package()
    encoder: tokenizers.Tokenizer = package.Tokenizer(package.models.BPE(vocab=ids, merges=list(merges)))
    encoder.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return encoder


if TYPE_CHECKING:  # the registry imports this class by name, where mypy cannot check it
    _implementation: TokenizerType = BytePairTokenizer
