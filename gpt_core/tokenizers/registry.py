"""Registry of tokenizers: the names that the setting `tokenizer` accepts, and the class behind each.

Classes are imported when they are first used, so that the settings can list the names without importing NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import index

from gpt_core.errors import TokenizerError, shown
from gpt_core.registry import Registry
from gpt_core.tokenizers import storage
from gpt_core.tokenizers.protocol import Tokenizer, TokenizerType

TOKENIZERS: Registry[TokenizerType] = Registry("tokenizer", TokenizerError)
"""Classes of tokenizers, each under its `name`."""
TOKENIZERS.register("pieces", "gpt_core.tokenizers.pieces:PieceTokenizer")
TOKENIZERS.register("ascii", "gpt_core.tokenizers.pieces:AsciiTokenizer")
TOKENIZERS.register("bpe", "gpt_core.tokenizers.byte_pairs:BytePairTokenizer")

tokenizer_names = TOKENIZERS.names
_FORMER_NAMES = {"seed": "ascii"}  # in checkpoints and config files of earlier versions


def register(name: str, implementation: TokenizerType | str) -> None:
    """Register a class of tokenizers, or "module:attribute" to import it when it is first used.

    A class registered under the same name before is replaced.

    Raises:
        TokenizerError: The class has another `name`, by which its checkpoints would name it.
    """
    if not isinstance(implementation, str) and (own := getattr(implementation, "name", None)) != name:
        raise TokenizerError(f"tokenizer: got {name!r} for a class whose name is {shown(own)}, expected the same name")
    TOKENIZERS.register(name, implementation)


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
        TokenizerError: The name is not registered, `vocab_size` is out of range, or a chunk is not bytes.
    """
    try:
        size = index(vocab_size)
    except TypeError:
        raise TokenizerError(f"vocab_size: got {shown(vocab_size)}, expected a whole number") from None
    return tokenizer_type(name).train(_checked_chunks(chunks), size)


def _checked_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a text. Raises TokenizerError for one that is not bytes."""
    for chunk in chunks:
        if not isinstance(chunk, bytes):
            raise TokenizerError(f"chunks: got {shown(chunk)}, expected bytes; encode text first, and pass a list")
        yield chunk


def from_bytes(data: bytes) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.to_bytes` serialized. Checks the data before it allocates memory for it.

    Raises:
        TokenizerError: The data is damaged, not a tokenizer, or one that is not registered.
    """
    stored = storage.unpack(data)
    return tokenizer_type(stored.name).from_body(stored.body, stored.vocab_size)
