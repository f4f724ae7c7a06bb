"""Byte-level alphabet of GPT-2: one printable character per byte, in which `vocab.json` spells tokens.

Bytes that are printable characters of Latin-1 stand for themselves; the other 68 are the characters from U+0100 on.
"""

from __future__ import annotations

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHER = sorted(set(range(256)) - set(_PRINTABLE))

CHARACTERS = "".join(chr(byte if byte in _PRINTABLE else 256 + _OTHER.index(byte)) for byte in range(256))
"""Character of each byte"""
_BYTE_OF = {character: byte for byte, character in enumerate(CHARACTERS)}


def to_characters(data: bytes) -> str:
    """Return bytes in the alphabet."""
    return "".join([CHARACTERS[byte] for byte in data])


def to_bytes(text: str) -> bytes:
    """Return the bytes that a text of the alphabet spells. Raises ValueError for any other character."""
    try:
        return bytes([_BYTE_OF[character] for character in text])
    except KeyError as error:
        raise ValueError(f"got {text[:20]!r}, expected characters of the byte-level alphabet") from error
