"""How many tokens a text has, without encoding it: from its token cache, or from its length."""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from gpt_core.errors import CorpusError
from gpt_core.text.cache_files import cache_folders
from gpt_core.text.documents import DocumentKind
from gpt_core.text.token_cache import (
    HEADER,
    HEADER_BYTES,
    open_tokenizer_cache,
    text_sha256,
    token_cache_name,
    tokenizer_cache_name,
)
from gpt_core.tokenizers.pieces import Mode

MOST_HASHED_BYTES = 256 << 20  # to find the cache of a longer text takes longer than an estimate is worth

# Bytes a token of English prose, by the size of the vocabulary: measured on the text that ships with the program. From
# 8,192 on there are no more pieces that serve it.
_SIZES = (260, 512, 1024, 2048, 4096, 8192)
_BYTES_A_TOKEN: dict[Mode, tuple[float, ...]] = {
    "pieces": (1.0, 2.09, 2.56, 2.86, 3.01, 3.07),
    "seed": (1.22, 2.39, 2.93, 3.35, 3.60, 3.71),
}


class TokenCount(NamedTuple):
    """How many tokens; `counted`, or estimated."""

    tokens: int
    counted: bool


def count_tokens(
    path: Path, vocab_size: int, mode: Mode, document: DocumentKind, *, cache_dir: Path | None = None
) -> TokenCount:
    """The tokens of a text. Raises CorpusError where it cannot be read."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        text_sha256(path)  # says what is wrong with the file
        raise CorpusError(f"cannot read the text {path}; name a text file") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size <= MOST_HASHED_BYTES:
        digest = _sha256(path, found.st_size, found.st_mtime_ns)
        cached = cached_tokens(path, digest, vocab_size, mode, document, cache_dir)
        if cached is not None:
            return TokenCount(cached, True)
    return TokenCount(max(1, round(found.st_size / bytes_a_token(vocab_size, mode))), False)


def bytes_a_token(vocab_size: int, mode: Mode) -> float:
    """Bytes of English prose that a token stands for on average."""
    return float(np.interp(np.log(vocab_size), np.log(_SIZES), _BYTES_A_TOKEN[mode]))


def cached_tokens(
    path: Path, digest: str, vocab_size: int, mode: Mode, document: DocumentKind, cache_dir: Path | None
) -> int | None:
    """The count in the header of the token cache of a text with the SHA-256 `digest`; None if there is no cache.

    The ids are not checked: whoever trains on them does.
    """
    folders = cache_folders(path, cache_dir)
    name = tokenizer_cache_name(path, digest, vocab_size, mode, document)
    tokenizers = (open_tokenizer_cache(folder / name) for folder in folders)
    tokenizer = next((tokenizer for tokenizer in tokenizers if tokenizer is not None), None)
    if tokenizer is None:
        return None
    for folder in folders:
        try:
            with open(folder / token_cache_name(path, digest, tokenizer, document), "rb") as file:
                return HEADER.decode(file.read(HEADER_BYTES)).count
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return None


@lru_cache(maxsize=8)
def _sha256(path: Path, _size: int, _changed_at: int) -> str:
    """The digest of a file, computed again only if it seems to have changed."""
    return text_sha256(path)
