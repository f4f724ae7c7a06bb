"""Cut text of any size into documents, in bounded memory.

A document is a paragraph (separated by blank lines), a line, or the entire file. Line breaks inside a paragraph are
preserved, CRLF as CRLF. The line breaks that end a document are not part of it, nor are blank lines. No other byte is
changed: text need not be valid UTF-8 and may contain NULs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from gpt_core.file_kinds import BYTE_ORDER_MARK

DocumentKind = Literal["paragraph", "line", "file"]

PART_BYTES = 1 << 20  # longer documents are cut into parts of about this size, never more than twice


def document_parts(blocks: Iterable[bytes], kind: DocumentKind) -> Iterator[tuple[bytes, bool]]:
    """Cut a stream of bytes into documents.

    Documents of only white space are left out. Memory is bounded by the size of a block and a part.

    Yields:
        Pairs of text and whether the document ends with it. Cuts are never inside a UTF-8 character.
    """
    if kind == "file":
        return _entire_file(blocks)
    return _paragraphs(_lines(blocks)) if kind == "paragraph" else _filled_lines(_lines(blocks))


def without_byte_order_mark(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes without the mark that some editors write at the beginning of UTF-8."""
    rest = iter(blocks)
    head = b""
    while len(head) < len(BYTE_ORDER_MARK) and (block := next(rest, b"")):
        head += block
    yield head.removeprefix(BYTE_ORDER_MARK)
    yield from rest


def _lines(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    r"""Yield the lines without `\n`, long ones in parts: pairs of text and whether the line ends with it."""
    rest = b""
    is_cut = False
    for block in blocks:
        *ended, rest = (rest + block).split(b"\n")
        for line in ended:
            yield line, True
        is_cut = is_cut and not ended
        while len(rest) > PART_BYTES:
            size = _part_size(rest)
            yield rest[:size], False
            rest, is_cut = rest[size:], True
    if rest or is_cut:
        yield rest, True


def _filled_lines(lines: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines that are not blank."""
    at_start = True  # of a line
    for text, ends in lines:
        if at_start and (not text or text.isspace()):
            continue
        yield text.removesuffix(b"\r") if ends else text, ends
        at_start = ends


def _paragraphs(lines: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Yield each run of lines that are not blank as one document."""
    part = bytearray()  # not a list to join: a list of a million short lines takes a hundred times their size
    is_open = False  # parts of this paragraph were yielded
    at_start = True  # of a line
    for text, ends in lines:
        if at_start and (not text or text.isspace()):
            if part or is_open:
                yield bytes(part.removesuffix(b"\r")), True
                part, is_open = bytearray(), False
            continue
        if part and len(part) + len(text) > PART_BYTES:
            yield bytes(part), False
            part, is_open = bytearray(), True
        if at_start and (part or is_open):
            part += b"\n"
        part += text
        at_start = ends
    if part or is_open:
        yield bytes(part.removesuffix(b"\r")), True


def _entire_file(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield the file as one document, unless it contains only white space."""
    rest = b""
    is_open = False
    for block in blocks:
        rest += block
        if not is_open and (not rest or rest.isspace()):
            rest = rest[-PART_BYTES:]
            continue
        while len(rest) > PART_BYTES:
            size = _part_size(rest)
            yield rest[:size], False
            rest, is_open = rest[size:], True
    if is_open or (rest and not rest.isspace()):
        yield rest, True


def _part_size(text: bytes) -> int:
    """Return where to cut `text`: the last offset up to PART_BYTES that is not inside a UTF-8 character."""
    for size in range(PART_BYTES, PART_BYTES - 4, -1):
        if text[size] & 0xC0 != 0x80:
            return size
    return PART_BYTES  # not UTF-8
