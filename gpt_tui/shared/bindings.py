"""Textual bindings of the key table."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from gpt_tui.shared.keymap import Key, Place, keys_of


def bindings(*places: Place) -> list[BindingType]:
    """Return the bindings of the keys of some places, for BINDINGS."""
    return [binding(key) for key in keys_of(*places)]


def binding(key: Key) -> Binding:
    """Return the binding of a key."""
    return Binding(
        key.keys, key.action, key.label, show=key.footer, priority=key.priority, tooltip=key.help, id=key.id,
        key_display=key.display,
    )  # fmt: skip
