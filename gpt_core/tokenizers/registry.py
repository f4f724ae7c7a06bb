"""Registry of tokenizers: the names that the setting `tokenizer` accepts, and the class behind each.

Classes are imported when they are first used, so that the settings can list the names without importing NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable

from gpt_core.errors import TokenizerError
from gpt_core.registry import Registry
from gpt_core.tokenizers import storage
from gpt_core.tokenizers.protocol import Tokenizer, TokenizerType

TOKENIZERS: Registry[TokenizerType] = Registry("tokenizer", TokenizerError)
"""Classes of tokenizers, each under its `name`."""
TOKENIZERS.register("pieces", "gpt_core.tokenizers.pieces:PieceTokenizer")
TOKENIZERS.register("ascii", "gpt_core.tokenizers.pieces:AsciiTokenizer")
TOKENIZERS.register("bpe", "gpt_core.tokenizers.byte_pairs:BytePairTokenizer")

register, tokenizer_names = TOKENIZERS.register, TOKENIZERS.names
_FORMER_NAMES = {"seed": "ascii"}  # in checkpoints and config files of earlier versions


def canonical_name(name: str) -> str:
    """Return the present name of a tokenizer that was renamed, any other name unchanged."""
    return _FORMER_NAMES.get(name, name)


def tokenizer_type(name: str) -> TokenizerType:
    """Return the class registered under `name`.

    Raises:
        TokenizerError: Nothing is registered under this name.
    """
    return TOKENIZERS.get(canonical_name(name))


def train(name: str, chunks: Iterable[bytes], vocab_size: int) -> Tokenizer:
    """Train the tokenizer registered under `name` on chunks of text. Deterministic.

    Raises:
        TokenizerError: The name is not registered, or `vocab_size` is out of range.
    """
    return tokenizer_type(name).train(chunks, vocab_size)


def from_bytes(data: bytes) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.to_bytes` serialized. Checks the data before it allocates memory for it.

    Raises:
        TokenizerError: The data is damaged, not a tokenizer, or one that is not registered.
    """
    stored = storage.unpack(data)
    return tokenizer_type(stored.name).from_body(stored.body, stored.vocab_size)
