"""The key table as Textual binds it."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from gpt_tui.shared.keymap import Key, Place, keys_of


def bindings(*places: Place) -> list[BindingType]:
    """The bindings of these places, for a BINDINGS."""
    return [binding(key) for key in keys_of(*places)]


def binding(key: Key) -> Binding:
    """One key of the table."""
    return Binding(
        key.keys, key.action, key.label, show=key.footer, priority=key.priority, tooltip=key.help, id=key.id,
        key_display=key.display,
    )  # fmt: skip
