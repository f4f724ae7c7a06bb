"""Encodings of texts: recognition by the first bytes, conversion to UTF-8 in blocks, and a guess for error messages."""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator

from gpt_core.errors import ConfigError, CorpusError
from gpt_core.file_kinds import HEAD_BYTES, not_text

UTF8 = "utf-8"
AS_BYTES = "bytes"
"""In place of an encoding: the bytes are used as they are, whatever they are."""

_BYTE_ORDER_MARKS = (  # longer ones before those that they begin with
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, UTF8),
)
USE_AS_BYTES = "set allow_binary=true to use its bytes as they are"
_SHOWN_CHARACTERS = 32  # of the line that is not UTF-8, in an error message
_DENSITY_BYTES = 64  # from the first error, in which errors are counted
# encoding that decodes the text, encoding to suggest, letters that it consists of, minimum share of them
_EAST_ASIAN = (
    ("euc_jp", "euc_jp", re.compile("[\u3040-\u30ff]"), 0.25),
    ("shift_jis", "shift_jis", re.compile("[\u3040-\u30ff]"), 0.25),
    ("euc_kr", "euc_kr", re.compile("[\uac00-\ud7a3]"), 0.85),
    ("gb2312", "gb18030", re.compile("[\u4e00-\u9fff]"), 0.5),
    ("big5", "big5", re.compile("[\u4e00-\u9fff]"), 0.7),
    ("gb18030", "gb18030", re.compile("[\u4e00-\u9fff]"), 0.7),
)
_MIN_EAST_ASIAN_SHARE = 0.3  # of bytes above 127
_CYRILLIC = ("cp1251", "koi8_r", "cp866")
_MIN_CYRILLIC_SHARE = 0.5  # of lower-case Cyrillic letters among letters and other characters beyond ASCII


def find_encoding(head: bytes, otherwise: str) -> str:
    """Return the encoding of a text: that of its byte order mark, UTF-8 if it is that clearly, else `otherwise`.

    Args:
        head: First bytes of the text. The last character may be cut.
        otherwise: Encoding of texts that have no byte order mark and are not UTF-8 with characters beyond ASCII; ""
            for UTF-8.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    decoded = _decoded(head, UTF8)
    if not otherwise or (decoded is not None and not decoded.isascii()):
        return UTF8
    return codecs.lookup(otherwise).name


def is_byte_order_mark(data: bytes) -> bool:
    """Return True if the data is a byte order mark and nothing else."""
    return any(data == mark for mark, _ in _BYTE_ORDER_MARKS)


def utf8_blocks(blocks: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Yield a text as UTF-8 in blocks. Blocks that are UTF-8 are yielded as they are, after a check.

    Args:
        blocks: The text in its encoding.
        encoding: Encoding of the text; AS_BYTES yields the blocks without a check.
        name: Name of the text, for the error message.

    Raises:
        CorpusError: The text is not in this encoding.
    """
    if encoding == AS_BYTES:
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    offset, line, continuation = 0, 1, 0
    remaining = itertools.chain(blocks, (b"",))
    for block in remaining:
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            data = error.object  # the block, after the beginning of a character that the block before it ended with
            pending = len(data) - len(block)
            start = offset - pending + error.start
            line += data.count(b"\n", 0, error.start)
            place = f"byte {start:,} (line {line:,})"
            is_cut = error.reason == "unexpected end of data"
            if encoding == UTF8 and continuation == pending and is_lone_byte(data, error) and not any(remaining):
                problem = lone_byte(name, data, error, place)
                raise CorpusError(f"{problem}, set encoding to that of the text, or {USE_AS_BYTES}") from None
            if encoding == UTF8 and (is_cut or is_damaged_utf8(data, error, start, continuation - pending)):
                problem = damaged_utf8(name, data, error, place)
                raise CorpusError(f"{problem}, or {USE_AS_BYTES}") from None
            raise _wrong_encoding(name, encoding, data, error, place) from None
        except UnicodeError as error:
            raise CorpusError(f"{name} is not {encoding}: {error}; set encoding to that of the text") from None
        offset += len(block)
        line += block.count(b"\n")
        continuation += len(block) - len(text)
        if encoded := block if encoding == UTF8 else text.encode(errors="replace"):
            yield encoded


def _wrong_encoding(name: str, encoding: str, data: bytes, error: UnicodeDecodeError, place: str) -> CorpusError:
    """Return the error for a text that is not in the encoding that it was read in."""
    if encoding in ("utf-16", "utf-32"):  # of a byte order mark
        return CorpusError(f"{name} is not {encoding}: {error.reason} at {place}; restore it, or {USE_AS_BYTES}")
    if encoding != UTF8:
        problem = f"{name} is not {encoding}: {error.reason} at {place}"
        return CorpusError(f"{problem}; set encoding to that of the text, or {USE_AS_BYTES}")
    problem, guess = not_utf8(name, data, error, place)
    return CorpusError(f"{problem}: set encoding={guess}, or {USE_AS_BYTES}")


def is_damaged_utf8(data: bytes, error: UnicodeDecodeError, start: int, continuation: int = 0) -> bool:
    """Return True if a text is UTF-8 with a damaged character, not a text in another encoding.

    It is if the text before the error has characters beyond ASCII. Single ones occur by chance in the first words of
    a text in an East Asian or Cyrillic encoding, where errors are much denser.

    Args:
        data: The text, or the block of it that was decoded.
        error: Error of decoding `data`.
        start: Offset of the error in the text, in bytes.
        continuation: Number of bytes before `data` that continue a UTF-8 character.
    """
    valid = data[: error.start]
    continuation += len(valid) - len(valid.decode(UTF8))
    errors = data[error.start : error.start + _DENSITY_BYTES].decode(UTF8, "replace").count("\ufffd")
    return continuation > 0 and (start >= HEAD_BYTES or continuation >= errors)


def is_lone_byte(data: bytes, error: UnicodeDecodeError) -> bool:
    """Return True if the last byte of the data is its only one beyond ASCII, and not UTF-8."""
    return error.start == len(data) - 1 and data[: error.start].isascii()


def lone_byte(name: str, data: bytes, error: UnicodeDecodeError, place: str) -> str:
    """Return the message for a text whose last byte alone is beyond ASCII: too little to guess an encoding from.

    Args:
        name: Name of the text.
        data: The text, or the block of it that was decoded.
        error: Error of decoding `data`.
        place: Where in the text the error is.
    """
    return (
        f"{name} is not UTF-8: got 0x{data[error.start]:02x} at {place}, the last byte and the only one beyond ASCII, "
        "which is too little to guess the encoding from; remove it"
    )


def damaged_utf8(name: str, data: bytes, error: UnicodeDecodeError, place: str) -> str:
    """Return the message for a UTF-8 text that has a damaged character or ends inside one, and how to repair it.

    Args:
        name: Name of the text.
        data: The text, or the block of it that was decoded.
        error: Error of decoding `data`.
        place: Where in the text the error is.
    """
    problem = f"{name} is damaged UTF-8: got 0x{data[error.start]:02x} at {place}"
    if error.reason == "unexpected end of data":
        cut = len(data) - error.start
        return f"{problem}, where it ends inside a character; remove the last {'byte' if cut == 1 else f'{cut} bytes'}"
    return f"{problem}, which is no UTF-8 character; correct or remove it there"


def not_utf8(name: str, data: bytes, error: UnicodeDecodeError, place: str) -> tuple[str, str]:
    """Return the message for a text that is not UTF-8, with the line that shows it, and its most probable encoding.

    Args:
        name: Name of the text.
        data: The text, or the block of it that was decoded.
        error: Error of decoding `data`.
        place: Where in the text the error is.
    """
    begin = data.rfind(b"\n", 0, error.start) + 1
    guess = guess_encoding(data[max(begin, error.start - HEAD_BYTES) : error.start + HEAD_BYTES])
    line = data[max(begin, error.start - 80) : error.start + 160].split(b"\n")[0].decode(guess, "ignore").strip()
    shown = line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS].rstrip()}…"
    return f"{name} is not UTF-8: got 0x{data[error.start]:02x} at {place}; it looks like {guess} ({shown!r})", guess


def prompt_text(data: bytes, name: str, encoding: str = UTF8) -> str:
    """Return a prompt that was read from a file or from standard input.

    Args:
        data: The prompt.
        name: Where it is from, for the error message.
        encoding: UTF-8, or that of a byte order mark, which is left out.

    Raises:
        ConfigError: The data is not text, or not in this encoding.
    """
    if found := not_text(data[:HEAD_BYTES], "" if encoding == UTF8 else encoding):
        raise ConfigError(f"{name}: got {found.kind}, expected text; {found.remedy}")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding != UTF8:
            place = f"byte {error.start:,}"
            raise ConfigError(f"{name} is not {encoding}: {error.reason} at {place}; convert it to UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        place = f"byte {error.start:,} (line {line:,})"
        if is_lone_byte(data, error):
            raise ConfigError(f"{lone_byte(name, data, error, place)}, or convert the text to UTF-8") from None
        if is_damaged_utf8(data, error, error.start):
            raise ConfigError(damaged_utf8(name, data, error, place)) from None
        problem, guess = not_utf8(name, data, error, place)
        raise ConfigError(f"{problem}: convert it to UTF-8 (`iconv -f {guess} -t UTF-8`)") from None


def guess_encoding(data: bytes) -> str:
    """Return the encoding that a text which is not UTF-8 is most probably in. The last character may be cut."""
    above_ascii = len(data.translate(None, bytes(range(128))))
    if above_ascii >= _MIN_EAST_ASIAN_SHARE * len(data):
        for encoding, suggested, letters, share in _EAST_ASIAN:
            text = _decoded(data, encoding)
            if text and len(letters.findall(text)) >= share * sum(char > "\x7f" for char in text):
                return suggested
    lower = {encoding: _lower_cyrillic(data.decode(encoding, "replace")) for encoding in _CYRILLIC}
    best = max(lower, key=lambda encoding: lower[encoding])
    if lower[best] > _MIN_CYRILLIC_SHARE:
        return best
    return "cp1252" if _decoded(data, "cp1252") is not None else "latin_1"


def _lower_cyrillic(text: str) -> float:
    """Return the share of lower-case Cyrillic letters among letters and other characters beyond ASCII."""
    counted = [char for char in text if char > "\x7f" or char.isalpha()]
    return sum("\u0430" <= char <= "\u044f" for char in counted) / max(1, len(counted))


def _decoded(data: bytes, encoding: str) -> str | None:
    """Return the data as text, without a character that is cut at its end; None if it is not in the encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(data)
    except UnicodeError:
        return None
