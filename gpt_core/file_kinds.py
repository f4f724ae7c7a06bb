"""Recognize data that is not plain text, by its first bytes: other encodings, compressed files, documents, programs.

Plain text is UTF-8, ASCII or any other encoding of bytes in which control characters are rare; here it need not be
valid UTF-8. The rule (`not_text`): data is not plain text if it begins with a known signature, or if more than 1% of
its first 64 KiB are NULs or other control characters that text does not use.
"""

from __future__ import annotations

import codecs
import unicodedata
from typing import NamedTuple

HEAD_BYTES = 1 << 16  # bytes that are examined
MAX_CONTROL_SHARE = 0.01
MIN_TEXT_SHARE = 0.6  # of bytes that are no control characters; in UTF-16 of most scripts they are about half
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_TEXT_CONTROLS = b"\a\b\t\n\v\f\r\x1b"  # ESC: terminal colors, and encodings such as ISO-2022-JP
_CONTROLS = bytes(code for code in (*range(32), 127) if code not in _TEXT_CONTROLS)

_UTF16 = "convert it to UTF-8 (`iconv -f UTF-16 -t UTF-8`; in PowerShell `Set-Content -Encoding utf8`)"
_REMOVE = r"remove them (`tr -d '\000-\006\016-\032\034-\037\177'`)"
_UTF32 = "convert it to UTF-8 (`iconv -f UTF-32 -t UTF-8`)"
_EXPORT = "export it as plain text"
_OTHER = "name a text file"


class NotText(NamedTuple):
    """Kind of data that is not plain text, as "gzip-compressed data", and what to do with it.

    `encoding` is that of text in UTF-16 or UTF-32 without a byte order mark, "" for other data.
    """

    kind: str
    remedy: str
    encoding: str = ""


# offset, bytes, kind, remedy; longer signatures before shorter ones that they begin with
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\xff\xfe\0\0", "UTF-32 text", _UTF32),
    (0, b"\0\0\xfe\xff", "UTF-32 text", _UTF32),
    (0, b"\xff\xfe", "UTF-16 text", _UTF16),
    (0, b"\xfe\xff", "UTF-16 text", _UTF16),
    (0, b"\x1f\x8b\x08", "gzip-compressed data", "decompress it with `gunzip`"),
    (0, b"BZh", "bzip2-compressed data", "decompress it with `bunzip2`"),
    (0, b"\xfd7zXZ\0", "xz-compressed data", "decompress it with `unxz`"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data", "decompress it with `unzstd`"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed data", "decompress it with `unlz4`"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "extract the text from it"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "extract the text from it"),
    (0, b"PK\x03\x04", "a zip archive (or a document such as .docx, .odt or .epub)",
     "extract the text, or export the document as plain text"),
    (0, b"PK\x05\x06", "an empty zip archive", _OTHER),
    (257, b"ustar", "a tar archive", "extract the text from it"),
    (0, b"%PDF-", "a PDF document", "extract its text, for example with `pdftotext`"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document", _EXPORT),
    (0, b"{\\rtf", "an RTF document", _EXPORT),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", _OTHER),
    (0, b"\xff\xd8\xff", "a JPEG image", _OTHER),
    (0, b"GIF87a", "a GIF image", _OTHER),
    (0, b"GIF89a", "a GIF image", _OTHER),
    (0, b"\x7fELF", "a program (ELF)", _OTHER),
    (0, b"SQLite format 3\0", "an SQLite database", "export the text from it"),
    (0, b"PAR1", "a Parquet table", "export the text from it"),
    (0, b"OggS", "Ogg audio or video", _OTHER),
    (0, b"ID3", "MP3 audio", _OTHER),
)  # fmt: skip
# signatures of letters alone, which a text may begin with: they count only where control characters follow
_OF_LETTERS = frozenset({b"BZh", b"PAR1", b"OggS", b"ID3", b"GIF87a", b"GIF89a"})


def not_text(head: bytes, encoding: str = "") -> NotText | None:
    """Return the kind of data that begins with these bytes; None for plain text.

    Args:
        head: The first `HEAD_BYTES` of the data, or all of it where it is shorter.
        encoding: Encoding that the data is to be read in; "" for UTF-8, or any other that is not UTF-16 or UTF-32.
    """
    has_controls = _control_share(head) > MAX_CONTROL_SHARE
    for offset, signature, kind, remedy in _SIGNATURES:
        is_encoding = bool(encoding) and remedy in (_UTF16, _UTF32)
        if head.startswith(signature, offset) and (has_controls or signature not in _OF_LETTERS) and not is_encoding:
            return NotText(kind, remedy)
    if encoding:
        return NotText("binary data", _OTHER) if _is_garbled(head.decode(encoding, "replace")) else None
    if not has_controls:
        return None
    if _is_text_with_controls(head):
        return NotText(f"text with {'control characters' if head.count(0) == 0 else 'NUL bytes'}", _REMOVE)
    wide = _wide_encoding(head)
    if not wide:
        return NotText("binary data", _OTHER)
    return NotText(f"{wide[:6].upper()} text", _UTF32 if wide.startswith("utf-32") else _UTF16, wide)


def _control_share(head: bytes) -> float:
    """Return the share of bytes that are control characters that text does not use."""
    return (len(head) - len(head.translate(None, _CONTROLS))) / len(head) if head else 0.0


def _is_text_with_controls(head: bytes) -> bool:
    """Return True for UTF-8 between a few control characters."""
    text = head.translate(None, _CONTROLS)
    if len(text) - text.count(b"\t") < MIN_TEXT_SHARE * len(head):  # a tab is also a half of letters of Hindi in UTF-16
        return False
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(text)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True


def _wide_encoding(head: bytes) -> str:
    """Return the encoding of UTF-16 or UTF-32 text without a byte order mark, "" for other data."""
    names = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
    return next((name for name in names if _decodes(head, name)), "")


def _is_garbled(text: str) -> bool:
    """Return True if more than 1% of the characters are control characters or unassigned, as in binary data."""
    controls = _CONTROLS.decode()
    unusual = sum(char in controls or unicodedata.category(char) in ("Cn", "Co") for char in text)
    return unusual > len(text) * MAX_CONTROL_SHARE


def _decodes(head: bytes, encoding: str) -> bool:
    """Return True if the data decodes, apart from a character that is cut at its end, to printable text."""
    try:
        text = head.decode(encoding, "strict")
    except UnicodeDecodeError as error:
        if error.end < len(head):
            return False
        text = head[: error.start].decode(encoding, "replace")
    if not text:
        return False
    unprintable = sum(not (char.isprintable() or char.isspace()) for char in text)
    return unprintable <= len(text) * MAX_CONTROL_SHARE
