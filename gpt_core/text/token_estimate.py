"""Size of a text without encoding it: from its token cache, else estimated from a sample of it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from gpt_core.text.documents import DocumentKind
from gpt_core.text.preview import TextPreview, read_text_preview
from gpt_core.text.reader import stamp_of, text_sha256
from gpt_core.text.source import TextSource
from gpt_core.text.token_cache import cached_header, cached_tokenizer
from gpt_core.tokenizers import tokenizer_type

MAX_HASHED_BYTES = 256 << 20  # finding the cache of a longer text takes too long for an estimate


class TextSize(NamedTuple):
    """Size of a text; `counted` if the number of tokens is exact, else it is estimated."""

    tokens: int
    counted: bool
    preview: TextPreview

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text in UTF-8 per token."""
        return self.preview.text_bytes / max(1, self.tokens)


def estimate_size(
    source: TextSource, vocab_size: int, name: str, document: DocumentKind, tokenizer_sha256: str = ""
) -> TextSize:
    """Return the size of a text, in tokens of the tokenizer of the registered `name`.

    Args:
        source: The text.
        vocab_size: Number of ids (V).
        name: Registered name of the tokenizer.
        document: Kind of document: a paragraph, a line or the file.
        tokenizer_sha256: Digest of the tokenizer; "" for the one that is trained on the text.

    Raises:
        CorpusError: The text cannot be read.
    """
    preview = read_text_preview(source, document)
    if preview.raw_bytes <= MAX_HASHED_BYTES:
        digest = _sha256(source, tuple(map(stamp_of, source.files)))
        if not tokenizer_sha256:
            tokenizer = cached_tokenizer(source.cache_path, digest, vocab_size, name, document)
            tokenizer_sha256 = tokenizer.sha256 if tokenizer is not None else ""
        header = cached_header(source.cache_path, digest, tokenizer_sha256, document) if tokenizer_sha256 else None
        if header is not None:
            return TextSize(header.count, True, preview._replace(text_bytes=header.text_bytes))
    estimated = preview.text_bytes / tokenizer_type(name).estimated_bytes_per_token(vocab_size)
    return TextSize(max(1, round(estimated)), False, preview)


@lru_cache(maxsize=8)
def _sha256(source: TextSource, _stamps: tuple[tuple[int, int, int], ...]) -> str:
    """Return the digest of a text, computed again only if a file was written or replaced."""
    return text_sha256(source)
