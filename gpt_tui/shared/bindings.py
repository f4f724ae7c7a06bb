"""Textual bindings of the key table, and the keymap of the app."""

from __future__ import annotations

from typing import Any

from textual.app import App
from textual.binding import Binding, BindingType

from gpt_tui.shared.keymap import Key, Place, keys_of


def bindings(*places: Place) -> list[BindingType]:
    """Return the bindings of the keys of some places, for BINDINGS."""
    return [binding(key) for key in keys_of(*places)]


def keymap_of(app: App[Any]) -> dict[str, str]:
    """Return the keys that the preferences assign, by id."""
    return dict(app._keymap)


def binding(key: Key) -> Binding:
    """Return the binding of a key."""
    return Binding(
        key.keys, key.action, key.label, show=key.footer, priority=key.priority, tooltip=key.help, id=key.id,
        key_display=key.display,
    )  # fmt: skip
