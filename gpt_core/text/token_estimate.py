"""Number of tokens of a text without encoding it: from its token cache, else estimated from its length."""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gpt_core.errors import CorpusError
from gpt_core.text.corpus import text_sha256
from gpt_core.text.documents import DocumentKind
from gpt_core.text.token_cache import cached_token_count
from gpt_core.tokenizers import tokenizer_type

MAX_HASHED_BYTES = 256 << 20  # finding the cache of a longer text takes too long for an estimate


class TokenCount(NamedTuple):
    """Number of tokens; `counted` if it is exact, else estimated."""

    tokens: int
    counted: bool


def count_tokens(
    path: Path, vocab_size: int, name: str, document: DocumentKind, *, cache_dir: Path | None = None
) -> TokenCount:
    """Return the number of tokens of a text with the tokenizer of the registered `name`.

    Raises:
        CorpusError: The text cannot be read.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        text_sha256(path)  # raises the error that explains what is wrong with the file
        raise CorpusError(f"cannot read the text {path}; name a text file") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size <= MAX_HASHED_BYTES:
        digest = _sha256(path, found.st_size, found.st_mtime_ns)
        cached = cached_token_count(path, digest, vocab_size, name, document, cache_dir)
        if cached is not None:
            return TokenCount(cached, True)
    estimated = found.st_size / tokenizer_type(name).estimated_bytes_per_token(vocab_size)
    return TokenCount(max(1, round(estimated)), False)


@lru_cache(maxsize=8)
def _sha256(path: Path, _size: int, _changed_at: int) -> str:
    """Return the digest of a file, computed again only if its size or modification time changed."""
    return text_sha256(path)
