"""Scripts that are written without spaces between words."""

from __future__ import annotations

import unicodedata

UNSPACED_SCRIPTS = (
    "CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "BOPOMOFO", "YI", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN",
    "JAVANESE", "BALINESE", "TAI", "NEW TAI",
)  # fmt: skip


def is_unspaced(character: str) -> bool:
    """Return True if the character belongs to a script that is written without spaces between words."""
    return unicodedata.name(character, "").startswith(UNSPACED_SCRIPTS)
