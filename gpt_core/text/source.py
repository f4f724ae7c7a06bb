"""Text source: the files of a text, and how they are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_core.text.file_search import find_files

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class TextSource:
    """Files that are read as one text, one after another. No document spans two files."""

    name: str
    """The file, folder or pattern as it was named; of several names the first one and how many more there are."""
    files: tuple[Path, ...]
    cache_path: Path
    """Caches are stored in the folder of this path, under names that begin with its last component."""
    encoding: str = ""
    """Encoding of files without a byte order mark that are not UTF-8; "" refuses such files."""
    text_field: str = "text"
    """Field of JSON Lines, CSV and Parquet files that holds the text."""
    allow_binary: bool = False
    """Use the bytes of every file as they are."""

    @property
    def title(self) -> str:
        """Last component of the name, for progress and tables."""
        return os.path.basename(self.name.rstrip("/")) or self.name

    def without(self, other: TextSource) -> TextSource:
        """Return the source without the files of another one, unless it has no other files."""
        excluded = {os.path.realpath(path) for path in other.files}
        kept = tuple(path for path in self.files if os.path.realpath(path) not in excluded)
        return replace(self, files=kept) if kept else self


def text_source(
    names: PathLike | Iterable[PathLike], *, encoding: str = "", text_field: str = "text", allow_binary: bool = False
) -> TextSource:
    """Find the files of a text.

    Args:
        names: Files, folders and patterns such as `texts/**/*.txt`.
        encoding: Encoding of files without a byte order mark that are not UTF-8.
        text_field: Field of JSON Lines, CSV and Parquet files that holds the text.
        allow_binary: Use the bytes of every file as they are.

    Raises:
        CorpusError: A name stands for no file, or a file cannot be read.
    """
    words = [os.fspath(name) for name in ([names] if isinstance(names, str | os.PathLike) else names)]
    if not words:
        raise CorpusError("no text: got an empty list of files; name a text file, a folder or a pattern")
    files = find_files(words)
    distinct: dict[str, str] = {}
    for word in words:  # a file that is given twice is read once
        distinct.setdefault(os.path.realpath(word), word)
    words = list(distinct.values())
    name = words[0] if len(words) == 1 else f"{words[0]} and {len(words) - 1} more"
    return TextSource(name, files, _cache_path(words, files), encoding, text_field, allow_binary)


def text_of(settings: Settings, names: PathLike | Iterable[PathLike]) -> TextSource:
    """Find the files of a text, to be read as the settings say. Raises CorpusError as `text_source`."""
    return text_source(
        names, encoding=settings.encoding, text_field=settings.text_field, allow_binary=settings.allow_binary
    )


def _cache_path(names: list[str], files: tuple[Path, ...]) -> Path:
    """Return the path that caches are named after: the file, a name in the folder, or one beside the first file.

    The last one depends on the names alone: caches are replaced when files are added that a pattern matches, unless
    the first one is in another folder then, and those of other names stay.
    """
    if len(names) == 1 and os.path.isdir(names[0]):
        folder = Path(names[0])
        return folder / (folder.resolve().name or "texts")
    first = files[0]
    if len(files) == 1:
        return first
    digest = hashlib.sha256(b"\0".join(os.fsencode(os.path.abspath(name)) for name in names)).hexdigest()
    return first.with_name(f"{first.resolve().parent.name or 'texts'}+{digest[:8]}")
