"""Registry of tokenizers: the names that the setting `tokenizer` accepts, and the class behind each.

Classes are imported when they are first used, so that the settings can list the names without importing NumPy.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import cast

from gpt_core.errors import TokenizerError
from gpt_core.tokenizers import storage
from gpt_core.tokenizers.protocol import Tokenizer, TokenizerType

_registered: dict[str, TokenizerType | str] = {}
_FORMER_NAMES = {"seed": "ascii"}  # in checkpoints and config files of earlier versions


def register(name: str, implementation: TokenizerType | str) -> None:
    """Register a tokenizer under a name, replacing the one registered before.

    Args:
        name: Value of the setting `tokenizer`; must equal `implementation.name`.
        implementation: Class of the tokenizer, or "module:Class" to import it when it is first used.
    """
    _registered[name] = implementation


def tokenizer_names() -> tuple[str, ...]:
    """Return the registered names, in the order of registration."""
    return tuple(_registered)


def canonical_name(name: str) -> str:
    """Return the present name of a tokenizer that was renamed, any other name unchanged."""
    return _FORMER_NAMES.get(name, name)


def tokenizer_type(name: str) -> TokenizerType:
    """Return the class registered under `name`.

    Raises:
        TokenizerError: Nothing is registered under this name.
    """
    found = _registered.get(canonical_name(name))
    if found is None:
        near = difflib.get_close_matches(name[:80], _registered, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(_registered)}"
        raise TokenizerError(f"unknown tokenizer {name[:80]!r}: {hint}")
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = cast(TokenizerType, getattr(importlib.import_module(module), attribute))
    return found


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


register("pieces", "gpt_core.tokenizers.pieces:PieceTokenizer")
register("ascii", "gpt_core.tokenizers.pieces:AsciiTokenizer")
register("bpe", "gpt_core.tokenizers.byte_pairs:BytePairTokenizer")
