"""Reading of texts: files of several kinds as UTF-8, cut into documents, with a digest of what was read.

How a file is read depends on its name and its first bytes. A name that ends in `.gz` or `.zst` is decompressed;
without that ending, `.jsonl` and `.ndjson` are JSON Lines, `.csv` and `.tsv` are CSV, `.parquet` is a Parquet table,
and everything else is text in UTF-8, or in the encoding that a byte order mark or the source names. What is not text is
refused, unless the source allows binary data: then the bytes of every file are used as they are.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from gpt_core.errors import CorpusError
from gpt_core.file_kinds import HEAD_BYTES, not_text
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text import corpus
from gpt_core.text.compression import MAGIC, decompressed
from gpt_core.text.corpus import text_blocks
from gpt_core.text.documents import PART_BYTES, DocumentKind, document_parts, without_byte_order_mark
from gpt_core.text.encodings import AS_BYTES, USE_AS_BYTES, UTF8, find_encoding, is_byte_order_mark, utf8_blocks
from gpt_core.text.records import csv_texts, json_texts, parquet_texts
from gpt_core.text.source import TextSource

MAX_CHECKED_FILES = 32  # whose beginnings `require_readable` checks
_JSON, _CSV = ("json", json_texts), ("csv", csv_texts)  # format of records, and the function that reads them
RECORDS = {".jsonl": _JSON, ".ndjson": _JSON, ".csv": _CSV, ".tsv": _CSV}
PARQUET = ".parquet"
_EXTRACT = "extract the text first, for example with `pandoc -t plain`"
# plain text with marks, by the suffix of files: its name, and what to do to read the text alone
_MARKED = {
    ".html": ("HTML", _EXTRACT), ".htm": ("HTML", _EXTRACT), ".xhtml": ("HTML", _EXTRACT), ".xml": ("XML", _EXTRACT),
    ".json": ("JSON", "for its texts alone, write one object per line to a file that ends in .jsonl (`jq -c '.[]'`)"),
}  # fmt: skip
_FIRST_BYTES = {**MAGIC, PARQUET: (b"PAR1",)}
# kinds of data (see `gpt_core.file_kinds`) that are read in files whose names end like this
_KINDS = {".gz": "gzip-compressed data", ".zst": "zstd-compressed data", PARQUET: "a Parquet table"}
_REMEDIES = {kind: f"give it a name that ends in {suffix}" for suffix, kind in _KINDS.items()}
_PLAIN = (UTF8, AS_BYTES)  # readings in which the text is the bytes of the file


class FileDigest(NamedTuple):
    """Reading of a file, the number of its bytes, and their SHA-256."""

    reading: str
    size: int
    sha256: str


@dataclass(frozen=True)
class OpenFile:
    """A file whose kind is known."""

    reading: str
    """Way in which it is read, as digests hold it."""
    raw: Iterator[bytes]
    """The rest of its bytes."""
    contents: Iterator[bytes]
    """Text in UTF-8 in blocks, without a byte order mark; of records, one text per record."""
    is_records: bool

    @property
    def is_plain(self) -> bool:
        """True if the contents are the bytes of the file, but for a byte order mark."""
        return self.reading in _PLAIN


class TextReader:
    """Reads the files of a source once, in bounded memory."""

    def __init__(
        self,
        source: TextSource,
        *,
        has_digest: bool = True,
        activity: str = "reading",
        progress: Progress = ignore_progress,
    ) -> None:
        """Create a reader.

        Args:
            source: Files to read.
            has_digest: Hash all bytes of the files. Without that, reading may end early.
            activity: Reported with the name of the text.
            progress: Receives `activity` and the fraction that was read.
        """
        self._source = source
        self._has_digest = has_digest
        self._activity = activity
        self._progress = progress
        self._total = 0
        self._digests: list[FileDigest] = []
        self._hash = hashlib.sha256()
        self._size = 0  # of the current file, as far as it was read
        self.raw_bytes = 0
        """Bytes of the files that were read."""
        self.text_bytes = 0
        """Bytes of the text in UTF-8 that were read."""

    @property
    def sha256(self) -> str:
        """Hex digest of the text that was read to its end.

        Of a single file of plain text it is that of its bytes, of other texts a digest of how each file is read and of
        its bytes.
        """
        assert self._has_digest
        assert len(self._digests) == len(self._source.files), "the text was not read to its end"
        if len(self._digests) == 1 and self._digests[0].reading in _PLAIN:
            return self._digests[0].sha256
        lines = "".join(f"{file.reading} {file.size} {file.sha256}\n" for file in self._digests)
        return hashlib.sha256(f"gpt-tui texts 1\n{lines}".encode()).hexdigest()

    def parts(self, kind: DocumentKind) -> Iterator[tuple[bytes, bool]]:
        """Yield the documents in parts of about 1 MiB: pairs of text and whether the document ends with it.

        Args:
            kind: Kind of document of a text file. Each record is a document.

        Raises:
            CorpusError: A file cannot be read, or is not text.
        """
        for file in self._opened():
            if not file.is_records:
                yield from document_parts(self._counted(file.contents), kind)
                continue
            for text in self._counted(file.contents):
                if len(text) > PART_BYTES:
                    yield from document_parts((text,), "file")
                elif text and not text.isspace():
                    yield text, True

    def contents(self) -> Iterator[bytes]:
        """Yield all of the text in blocks. Raises CorpusError."""
        for file in self._opened():
            yield from self._counted(file.contents)

    def skim(self) -> None:
        """Read what the digest depends on, and check that plain text is in its encoding. Raises CorpusError."""
        for file in self._opened():
            collections.deque(file.contents if file.is_plain else file.raw, maxlen=0)

    def _opened(self) -> Iterator[OpenFile]:
        """Yield each file, to be read to its end."""
        self._total = sum(size_of(path) for path in self._source.files)
        for path in self._source.files:
            self._hash, self._size = hashlib.sha256(), 0
            raw = self._raw_blocks(path)
            file = open_file(path, self._source, raw, self._rows_read(path), is_hashed=self._has_digest)
            yield file
            self._digests.append(FileDigest(file.reading, self._size, self._hash.hexdigest()))

    def _raw_blocks(self, path: Path) -> Iterator[bytes]:
        """Yield the bytes of a file, and hash them."""
        for block in text_blocks(path, activity=self._activity, progress=self._report):
            if self._has_digest:
                self._hash.update(block)
            self._size += len(block)
            self.raw_bytes += len(block)
            yield block

    def _rows_read(self, path: Path) -> Progress:
        """Return a function that counts the rows of a file that were read as its bytes, and reports them."""
        before = self.raw_bytes

        def report(_activity: str, fraction: float) -> None:
            self.raw_bytes = before + round(fraction * size_of(path))
            self._report(f"{self._activity} {path.name}", fraction)

        return report

    def _report(self, activity: str, fraction: float) -> None:
        """Report the progress in a file, or that in all of several files."""
        if len(self._source.files) > 1:
            activity, fraction = f"{self._activity} {self._source.title}", self.raw_bytes / max(1, self._total)
        self._progress(activity, min(fraction, 1.0))

    def _counted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self.text_bytes += len(block)
            yield block


def size_of(path: Path) -> int:
    """Return the size of a file, 0 if it is unknown."""
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0


def open_file(
    path: Path,
    source: TextSource,
    raw: Iterator[bytes],
    rows_read: Progress = ignore_progress,
    *,
    is_hashed: bool = False,
) -> OpenFile:
    """Find out how a file is read, by its name and its first bytes.

    Args:
        path: File to read.
        source: Source that it is part of.
        raw: Bytes of the file.
        rows_read: Receives the fraction of a table's rows that was read.
        is_hashed: Read all of `raw` before a table's rows.

    Raises:
        CorpusError: The file cannot be read, or is not text.
    """
    if source.allow_binary:
        return OpenFile(AS_BYTES, raw, without_byte_order_mark(raw), False)
    head, blocks = _peek(raw)
    name, readings = PurePath(path.name.lower()), []
    if (suffix := name.suffix) in MAGIC:
        _require_named_kind(path, head, suffix)
        head, blocks = _peek(decompressed(blocks, suffix, str(path)))
        name, readings = name.with_suffix(""), [suffix.removeprefix(".")]
    elif suffix == PARQUET:
        _require_named_kind(path, head, suffix)
        return OpenFile(
            f"parquet {source.text_field!r}", raw, _rows(path, source, raw if is_hashed else iter(()), rows_read), True
        )
    encoding = find_encoding(head, source.encoding)
    if found := not_text(head, "" if encoding == UTF8 else encoding):
        remedy = f"set encoding={found.encoding}" if found.encoding else found.remedy
        raise _not_text(path, source, found.kind, _REMEDIES.get(found.kind, remedy))
    texts = without_byte_order_mark(utf8_blocks(blocks, encoding, str(path)))
    readings.append(encoding)
    if is_records := name.suffix in RECORDS:
        kind, record_texts = RECORDS[name.suffix]
        texts = record_texts(texts, source.text_field, str(path))
        readings.append(f"{kind} {source.text_field!r}")
    return OpenFile(" ".join(readings), raw, texts, is_records)


def _peek(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes, and all blocks."""
    first: list[bytes] = []
    while sum(map(len, first)) < HEAD_BYTES and (block := next(blocks, b"")):
        first.append(block)
    return b"".join(first)[:HEAD_BYTES], itertools.chain(first, blocks)


def _require_named_kind(path: Path, head: bytes, suffix: str) -> None:
    """Raise CorpusError unless a file begins like files whose names end in `suffix`."""
    if not head.startswith(_FIRST_BYTES[suffix]):
        found = not_text(head)
        got = found.kind if found else "plain text" if head else "an empty file"
        raise CorpusError(
            f"{path} is not {_KINDS[suffix]}: got {got}; give it a name that says what it is, or restore it"
        )


def _not_text(path: Path, source: TextSource, kind: str, remedy: str) -> CorpusError:
    message = f"{path} is not plain text: got {kind}, expected UTF-8; {remedy}, or {USE_AS_BYTES}"
    if pattern := _pattern_without(path, source):
        message += f"; to leave it out, name the texts by a pattern such as '{pattern}'"
    return CorpusError(message)


def _pattern_without(path: Path, source: TextSource) -> str:
    """Return a pattern for the texts of a source with their most common suffix other than that of `path`; "" if none.

    Only a suffix is named whose first file begins as a text does.
    """
    of_suffix: dict[str, list[Path]] = {}
    for other in source.files:
        of_suffix.setdefault(other.suffix, []).append(other)
    for suffix, paths in sorted(of_suffix.items(), key=lambda item: -len(item[1])):
        if suffix not in ("", path.suffix) and _begins_as_text(paths[0], source):
            folder = source.name.rstrip("/") if os.path.isdir(source.name) else str(paths[0].parent)
            return f"{folder}/**/*{suffix}"
    return ""


def _begins_as_text(path: Path, source: TextSource) -> bool:
    """Return True if the file is text in the encoding of the source, or compressed or in a table as its name says."""
    try:
        head, _ = _peek(text_blocks(path))
    except CorpusError:
        return False
    if first := _FIRST_BYTES.get(path.suffix.lower()):
        return head.startswith(first)
    encoding = find_encoding(head, source.encoding)
    return not not_text(head, "" if encoding == UTF8 else encoding)


def _rows(path: Path, source: TextSource, raw: Iterator[bytes], rows_read: Progress) -> Iterator[bytes]:
    """Yield the texts of a Parquet file, after all of `raw` was read: the rows are found from the end of the file."""
    before = stamp_of(path)
    collections.deque(raw, maxlen=0)
    rows_read("", 0.0)
    yield from parquet_texts(path, source.text_field, rows_read)
    if stamp_of(path) != before:
        raise CorpusError(f"{path} was changed while it was read; start again")


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written or replaced: inode, size, modification time; zeros without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns


def text_sha256(source: TextSource, progress: Progress = ignore_progress) -> str:
    """Return the digest of a text (see `TextReader.sha256`). Plain text is checked to be in its encoding.

    Raises:
        CorpusError: A file cannot be read, or is not text.
    """
    reader = TextReader(source, progress=progress)
    reader.skim()
    return reader.sha256


def require_readable(source: TextSource) -> None:
    """Check the beginnings of the first files. Raises CorpusError for what cannot be read as text, or is empty."""
    for path in source.files[:MAX_CHECKED_FILES]:
        next(open_file(path, source, text_blocks(path)).contents, b"")
    next(documents(source, "line"))


def markup_note(source: TextSource) -> str:
    """Return a line about the files of a text whose marks are read as text, as their names say; "" for none."""
    found = []
    for path in source.files:
        name = PurePath(path.name.lower())
        suffix = name.with_suffix("").suffix if name.suffix in MAGIC else name.suffix
        found += [(path, *_MARKED[suffix])] if suffix in _MARKED else []
    if source.allow_binary or not found:
        return ""
    path, kind, remedy = found[0]
    more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
    return f"{path}{more} is read as plain text, with all {kind} marks; {remedy}"


def documents(source: TextSource, kind: DocumentKind) -> Iterator[bytes]:
    """Yield the documents of a text. One of more than 1 MiB is cut, never inside a UTF-8 character.

    Raises:
        CorpusError: A file cannot be read, or there is only white space.
    """
    found = False
    for part, _ in TextReader(source, has_digest=False).parts(kind):
        if part:
            found = True
            yield part
    if not found:
        raise empty(source)


def empty(source: TextSource) -> CorpusError:
    """Return the error for a text without any words."""
    filled = [path for path in source.files if stamp_of(path)[1]]
    got = "only white space" if filled else "0 bytes"
    if filled and all(_is_only_a_mark(path) for path in filled):
        got = "only a byte order mark"
    return CorpusError(f"the text {source.name} is empty: got {got}, expected text", "; name another file")


def _is_only_a_mark(path: Path) -> bool:
    """Return True if a byte order mark is all that a file holds; False where that cannot be read."""
    try:
        return is_byte_order_mark(next(text_blocks(path), b""))
    except CorpusError:
        return False


def first_lines(source: TextSource, count: int) -> list[bytes]:
    """Return the first `count` lines that are not blank.

    Raises:
        CorpusError: A file cannot be read, or every line is blank.
    """
    found: list[bytes] = []
    for text in documents(source, "line"):
        is_record = b"\n" in text
        found += (line for line, _ in document_parts((text,), "line")) if is_record else [text]
        if len(found) >= count:
            break
    return found[:count]


def sample_texts(
    source: TextSource,
    kind: DocumentKind,
    max_bytes: int,
    *,
    activity: str = "sampling",
    progress: Progress = ignore_progress,
) -> Iterator[bytes]:
    """Yield parts of the documents of a text: all of them, or of a long text parts from regular intervals.

    Of a file of plain text these are windows of 1 MiB, at most `max_bytes` in all, of which only these are read. Other
    texts are read to the end; then `max_bytes` limits the files rather than the text in them.

    Args:
        source: The text.
        kind: Kind of document of a text file.
        max_bytes: Maximum size of the parts.
        activity: Reported with the name of the text.
        progress: Receives `activity` and the fraction that was read.

    Raises:
        CorpusError: A file cannot be read, or is not text.
    """
    first = source.files[0]
    if len(source.files) == 1 and open_file(first, source, text_blocks(first)).is_plain:
        for window in sample_windows(first, max_bytes, activity, progress):
            yield from (part for part, _ in document_parts(without_byte_order_mark(window), kind))
        return
    stride = math.ceil(sum(map(size_of, source.files)) / max_bytes)
    reader = TextReader(source, has_digest=False, activity=activity, progress=progress)
    read = 0
    for part, _ in reader.parts(kind):
        if read // corpus.BLOCK_BYTES % max(1, stride) == 0:
            yield part
        read += len(part)


def sample_windows(
    path: Path, max_bytes: int, activity: str = "sampling", progress: Progress = ignore_progress
) -> Iterator[Iterator[bytes]]:
    """Yield a file as streams of blocks: one stream of all, or samples of a file longer than `max_bytes`.

    The samples are single blocks at regular intervals, `max_bytes` in all. `progress` receives `activity` with the name
    of the file, and the place of each block in it.

    Raises:
        CorpusError: The file cannot be read.
    """
    size = size_of(path) if path.is_file() else 0
    if size <= max_bytes:
        yield text_blocks(path, activity=activity, progress=progress)
        return
    count = max_bytes // corpus.BLOCK_BYTES
    for window in range(count):
        start = (size - corpus.BLOCK_BYTES) * window // (count - 1)
        yield itertools.islice(text_blocks(path, start, activity=activity, progress=progress), 1)
