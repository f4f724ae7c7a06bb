"""Tokenizers: bytes to token ids and back, and training of their vocabularies.

    from gpt_core import tokenizers

    tokenizer = tokenizers.train("pieces", [b"It was the best of times."], vocab_size=300)
    ids = tokenizer.encode(b"It was")
    assert tokenizer.decode(ids.tolist()) == b"It was"
    tokenizer = tokenizers.from_bytes(tokenizer.to_bytes())

`Tokenizer` is the protocol that training, caches, checkpoints and generation use. Another tokenizer is a class, most
simply derived from `gpt_core.tokenizers.base.BaseTokenizer`, and a call of `register`; the setting `tokenizer` then
accepts its name.
"""

from gpt_core.tokenizers.protocol import BOS, EOS, PAD, UNK, Tokenizer, TokenizerType
from gpt_core.tokenizers.registry import canonical_name, from_bytes, register, tokenizer_names, tokenizer_type, train

__all__ = [
    "BOS", "EOS", "PAD", "UNK", "Tokenizer", "TokenizerType", "canonical_name", "from_bytes", "register",
    "tokenizer_names", "tokenizer_type", "train",
]  # fmt: skip
