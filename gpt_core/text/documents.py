"""Where text is found, and how a file of any size is read as documents in bounded memory.

A document is a paragraph (blank lines stand between two), a line, or the whole file. Line breaks inside a paragraph are
kept, CRLF as CRLF; those that end a document are not part of it, nor are blank lines and a byte order mark at the
file's beginning. No other byte is changed: text need not be valid UTF-8, and NULs are text too.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import gpt_core
from gpt_core import files
from gpt_core.errors import CorpusError

DocumentKind = Literal["paragraph", "line", "file"]

TRAINING_NAMES = ("train.en", "train.eng")
BLOCK_BYTES = 1 << 20  # read at once
PART_BYTES = 1 << 20  # a longer document comes in parts of about this size, never more than twice
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def find_training_text(start: Path | None = None) -> Path:
    """The training text: under `start` (default: the working directory), else the one that ships with the program.

    Under `start` it is `data/raw/train.en` or `data/raw/train.eng`, or else the first file of such a name anywhere
    under `data/`, in sorted order. Raises CorpusError where there is none at all.
    """
    for folder in [(start or Path()) / "data", *shipped_folders()]:
        named = [folder / "raw" / name for name in TRAINING_NAMES]
        for path in [*named, *files_under(folder)]:
            if path.name in TRAINING_NAMES and os.path.isfile(path):
                return path
    raise CorpusError(
        f"no training text: {(start or Path()) / 'data' / 'raw' / 'train.en'} does not exist; "
        "put one there, or name one with --train-file"
    )


def find_eval_text(start: Path | None = None, training_text: Path | None = None) -> Path | None:
    """The text to score `training_text` on, or None: then part of the training text must be held out.

    Under `start` it is `data/test/eval.en`, or else the first name in `data/` that contains "eval" and ends in `.en`.
    The text that ships with the program only ever scores the training text that ships with it: a text of the user's
    own is not scored on another author. `training_text` None stands for the one that `find_training_text` finds.
    """
    training_text = training_text or find_training_text(start)
    is_shipped = is_shipped_text(training_text)
    for folder in [(start or Path()) / "data", *(shipped_folders() if is_shipped else [])]:
        for path in [folder / "test" / "eval.en", *files_under(folder)]:
            is_eval = "eval" in path.name and path.name.endswith(".en") and os.path.isfile(path)
            if is_eval and (is_shipped or not is_shipped_text(path)) and path.resolve() != training_text.resolve():
                return path
    return None


def shipped_folders() -> list[Path]:
    """Where the text that comes with the program may lie: in the installed package, or in the source tree."""
    package = Path(gpt_core.__file__).resolve().parent
    folders = [package / "data"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "data")
    return [folder for folder in folders if folder.is_dir()]


def is_shipped_text(path: Path) -> bool:
    """Whether `path` lies where the text that comes with the program does."""
    return any(path.resolve().is_relative_to(folder) for folder in shipped_folders())


def files_under(folder: Path) -> Iterator[Path]:
    """Every file under `folder`, in sorted order: a folder's own files first. Links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def require_text(path: Path) -> None:
    """Raise CorpusError where `path` is no file that can be read; nothing of it is read, or opened, for that.

    A FIFO or a device is told by its type, because opening one can wait for ever.
    """
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            raise _unreadable(path, f"it is {'a folder' if stat.S_ISDIR(kind) else 'not a regular file'}")
        if not os.access(path, os.R_OK):
            raise _unreadable(path, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, files.reason(error)) from error


def text_blocks(path: Path, start: int = 0) -> Iterator[bytes]:
    """The bytes of a text file from `start` on, 1 MiB at a time. Raises CorpusError where it is no readable file."""
    require_text(path)
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise _unreadable(path, files.reason(error)) from error


def _unreadable(path: Path, reason: str) -> CorpusError:
    return CorpusError(f"cannot read the text {path}: {reason}; name a text file")


def sample_windows(path: Path, most: int) -> Iterator[Iterator[bytes]]:
    """The text, or where it is longer than `most` bytes, windows of a block each at even distances that make `most`.

    Each window is a stream of blocks. Raises CorpusError if the file cannot be read.
    """
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size <= most:
        yield text_blocks(path)
        return
    count = most // BLOCK_BYTES
    for window in range(count):
        start = (size - BLOCK_BYTES) * window // (count - 1)
        yield itertools.islice(text_blocks(path, start), 1)


def joined(parts: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
    """Parts of documents, put together into stretches of about a block: (text, where in it documents end)."""
    stretch = bytearray()
    ends = array("q")
    for text, is_last in parts:
        stretch += text
        if is_last:
            ends.append(len(stretch))
        if len(stretch) >= BLOCK_BYTES:
            yield bytes(stretch), np.array(ends, dtype=np.int64)
            stretch, ends = bytearray(), array("q")
    if stretch or ends:
        yield bytes(stretch), np.array(ends, dtype=np.int64)


def documents(path: Path, kind: DocumentKind) -> Iterator[bytes]:
    """The documents of a text file; one of more than 1 MiB comes cut, never inside a UTF-8 character.

    Raises CorpusError if the file cannot be read or holds nothing but white space.
    """
    found = False
    for part, _ in document_parts(text_blocks(path), kind):
        if part:
            found = True
            yield part
    if not found:
        raise CorpusError(f"the text {path} is empty: it holds nothing but white space; name a file with text in it")


def first_lines(path: Path, count: int) -> list[bytes]:
    """The first `count` lines that are not blank. Raises CorpusError if there is none, or the file cannot be read."""
    lines: list[bytes] = []
    for line in documents(path, "line"):
        lines.append(line)
        if len(lines) == count:
            break
    return lines


def document_parts(blocks: Iterable[bytes], kind: DocumentKind) -> Iterator[tuple[bytes, bool]]:
    """Cut a stream of bytes into documents: (bytes, whether the document ends with them).

    Memory is bounded by the size of a block and a part, whatever the text. Documents of nothing but white space are
    left out. Cuts are never inside a UTF-8 character.
    """
    blocks = without_byte_order_mark(blocks)
    if kind == "file":
        return whole_file(blocks)
    return paragraphs(lines(blocks)) if kind == "paragraph" else filled_lines(lines(blocks))


def without_byte_order_mark(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes without the mark that some editors put at the beginning of UTF-8."""
    rest = iter(blocks)
    head = b""
    while len(head) < len(BYTE_ORDER_MARK) and (block := next(rest, b"")):
        head += block
    yield head.removeprefix(BYTE_ORDER_MARK)
    yield from rest


def lines(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The lines of a stream without their `\\n`: (bytes, whether the line ends with them). Long lines come in parts."""
    rest = b""
    is_cut = False
    for block in blocks:
        *ended, rest = (rest + block).split(b"\n")
        for line in ended:
            yield line, True
        is_cut = is_cut and not ended
        while len(rest) > PART_BYTES:
            size = size_of_part(rest)
            yield rest[:size], False
            rest, is_cut = rest[size:], True
    if rest or is_cut:
        yield rest, True


def filled_lines(lines: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """The lines that are not blank."""
    begins = True  # a line
    for text, ends in lines:
        if begins and (not text or text.isspace()):
            continue
        yield text.removesuffix(b"\r") if ends else text, ends
        begins = ends


def paragraphs(lines: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """The runs of lines that are not blank, as one document each."""
    part = bytearray()  # not a list to join: of a million short lines that would be a hundred times their size
    is_open = False  # parts of this paragraph were given out
    begins = True  # a line
    for text, ends in lines:
        if begins and (not text or text.isspace()):
            if part or is_open:
                yield bytes(part.removesuffix(b"\r")), True
                part, is_open = bytearray(), False
            continue
        if part and len(part) + len(text) > PART_BYTES:
            yield bytes(part), False
            part, is_open = bytearray(), True
        if begins and (part or is_open):
            part += b"\n"
        part += text
        begins = ends
    if part or is_open:
        yield bytes(part.removesuffix(b"\r")), True


def whole_file(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """All of it as one document, unless it is nothing but white space."""
    rest = b""
    is_open = False
    for block in blocks:
        rest += block
        if not is_open and (not rest or rest.isspace()):
            rest = rest[-PART_BYTES:]
            continue
        while len(rest) > PART_BYTES:
            size = size_of_part(rest)
            yield rest[:size], False
            rest, is_open = rest[size:], True
    if is_open or not (not rest or rest.isspace()):
        yield rest, True


def size_of_part(text: bytes) -> int:
    """Where to cut a part off `text`: the last place up to PART_BYTES that is not inside a UTF-8 character."""
    for size in range(PART_BYTES, PART_BYTES - 4, -1):
        if text[size] & 0xC0 != 0x80:
            return size
    return PART_BYTES  # this is not UTF-8
