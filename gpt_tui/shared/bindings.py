"""Textual bindings of the key table, and the keymap of the app."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from textual.app import App
from textual.binding import Binding, BindingType
from textual.widget import Widget

from gpt_tui.shared.keymap import Key, Place, keys_of


def bindings(*places: Place) -> list[BindingType]:
    """Return the bindings of the keys of some places, for BINDINGS."""
    return [binding(key) for key in keys_of(*places)]


def keymap_of(app: App[Any]) -> dict[str, str]:
    """Return the keys that the preferences assign, by id."""
    return dict(app._keymap)


def release_keys(field: Widget, *places: Place, but: Collection[str] = ()) -> None:
    """Remove from a text field the editing keys that are keys of its places, by default or in the preferences.

    Bindings are looked up from the widget with the focus on upwards, so a field would keep such a key.

    Args:
        field: A mounted widget.
        places: Places whose keys work while it has the focus.
        but: Keys that the field keeps.
    """
    keymap = keymap_of(field.app)
    names = {name for key in keys_of(*places) for name in (keymap.get(key.id) or key.keys).split(",")}
    for name in names.difference(but):
        field._bindings.key_to_bindings.pop(name, None)


def binding(key: Key) -> Binding:
    """Return the binding of a key."""
    return Binding(
        key.keys, key.action, key.label, show=key.footer, priority=key.priority, tooltip=key.help, id=key.id,
        key_display=key.display,
    )  # fmt: skip
