"""Preview of a text: its first words, and how large it is, estimated from its beginning where it is long."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from gpt_core.text.documents import DocumentKind
from gpt_core.text.reader import TextReader, size_of
from gpt_core.text.source import TextSource

MAX_READ_BYTES = 8 << 20  # of the files; of a longer text a part of some files is read
MAX_READ_FILES = 16
MAX_WORDS_CHARACTERS = 72
BEGIN_BYTES = 8 * MAX_WORDS_CHARACTERS  # enough for as many characters
DOCUMENT_MARK = b" / "  # between the documents of the beginning


class TextPreview(NamedTuple):
    """Beginning and size of a text; `is_exact` if all of it was read."""

    words: str
    """Its beginning in one line, with a slash between documents."""
    raw_bytes: int
    """Bytes of the files."""
    text_bytes: int
    """Bytes of the text in UTF-8."""
    documents: int
    is_exact: bool


class _Part(NamedTuple):
    """Sizes of the part of a file that was read."""

    raw_bytes: int
    text_bytes: int
    documents: int


def read_text_preview(source: TextSource, kind: DocumentKind) -> TextPreview:
    """Read the beginning of some files of a text, all of it if it is short.

    Raises:
        CorpusError: A file cannot be read, or is not text.
    """
    raw_bytes = sum(map(size_of, source.files))
    is_exact = raw_bytes <= MAX_READ_BYTES
    stride = 1 if is_exact else -(-len(source.files) // MAX_READ_FILES)
    files = source.files[::stride]
    words, parts = "", []
    for path in files:
        limit = None if is_exact else MAX_READ_BYTES // len(files)
        part, found = _read_part(replace(source, files=(path,)), kind, limit)
        words = words or found
        parts.append(part)
    read, text_bytes, documents = map(sum, zip(*parts, strict=True))
    scale = 1.0 if is_exact else raw_bytes / max(1, read)
    return TextPreview(words, raw_bytes, round(text_bytes * scale), round(documents * scale), is_exact)


def _read_part(file: TextSource, kind: DocumentKind, limit: int | None) -> tuple[_Part, str]:
    """Read a file until `limit` of its bytes were read. Returns the sizes, and the first words."""
    reader = TextReader(file, has_digest=False)
    part, begin = _Part(0, 0, 0), bytearray()
    raw_bytes = text_bytes = documents = 0
    for text, ends in reader.parts(kind):
        if reader.raw_bytes != raw_bytes:  # the parts before this one are those of the bytes read until then
            part = _Part(raw_bytes, text_bytes, documents)
            if limit is not None and raw_bytes >= limit:
                return part, one_line_of(begin)
            raw_bytes = reader.raw_bytes
        if len(begin) < BEGIN_BYTES:
            begin += (DOCUMENT_MARK if begin else b"") + text[:BEGIN_BYTES]
        text_bytes = reader.text_bytes
        documents += ends
    return _Part(reader.raw_bytes, reader.text_bytes, documents), one_line_of(begin)


def one_line_of(text: bytes | bytearray) -> str:
    """Return the beginning of a text as one line without runs of white space."""
    words = " ".join(text[:BEGIN_BYTES].decode("utf-8", "ignore").split())
    return words if len(words) <= MAX_WORDS_CHARACTERS else f"{words[:MAX_WORDS_CHARACTERS].rstrip()}…"
