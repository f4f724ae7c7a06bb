"""Escape sequences of keys that Textual's table lacks."""

from __future__ import annotations

from enum import StrEnum
from typing import cast

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.keys import Keys


class MoreKeys(StrEnum):
    """Names of keys that `Keys` lacks."""

    ALT_ENTER = "alt+enter"


def add_key_sequences() -> None:
    """Add Alt+Enter as terminals without the Kitty protocol send it; Textual takes it for Enter."""
    for sequence in ("\x1b\r", "\x1b\n"):
        cast(dict[str, object], ANSI_SEQUENCES_KEYS).setdefault(sequence, (cast(Keys, MoreKeys.ALT_ENTER),))
