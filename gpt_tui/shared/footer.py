"""Footer: the active keys, which can be clicked.

A single widget. Textual's footer has a widget per key; recreating them took 40 of the 120 ms of a change of tabs.
"""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

from gpt_tui.shared.footer_layout import FooterKey, Placed, key_at, placed
from gpt_tui.shared.keymap import KEYS, keys_of, readable

ORDER = {key.id: number for number, key in enumerate(KEYS)}
"""Keys are shown in the order of the key table."""
KEPT = frozenset(key.id for key in keys_of("everywhere"))
"""Help and quit are shown even where other keys do not fit."""


class FooterBar(Widget):
    """Shows the active bindings of its screen."""

    can_focus = False

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[FooterKey] = []
        self._palette: FooterKey | None = None

    def on_mount(self) -> None:
        """Subscribe to changes of the bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_updated)
        self._bindings_updated(self.screen)

    def _bindings_updated(self, screen: Screen[object]) -> None:
        if screen is not self.screen:
            return
        by_action: dict[str, FooterKey] = {}
        palette = None
        for key, active in sorted(screen.active_bindings.items(), key=lambda item: _order(item[1].binding.id)):
            binding = active.binding
            shown = FooterKey(key, readable(key), binding.description, active.enabled, binding.id in KEPT)
            if key == self.app.COMMAND_PALETTE_BINDING:
                palette = shown._replace(label="palette")
            elif binding.show:
                by_action.setdefault(binding.action, shown)
        keys = list(by_action.values())
        if (keys, palette) != (self._keys, self._palette):
            self._keys, self._palette = keys, palette
            self.refresh()

    @property
    def line(self) -> list[Placed]:
        """The visible keys and their columns."""
        return placed(self._keys, self._palette, self.size.width)

    def render(self) -> Content:
        """Draw the keys."""
        parts: list[Content | str | tuple[str, str]] = []
        column = 0
        for start, key in self.line:
            parts.append(" " * (start - column))
            style = "$footer-key-foreground bold" if key.enabled else "$faint"
            words = "$footer-description-foreground" if key.enabled else "$faint"
            parts += [(f" {key.shown} ", style), (f"{key.label} ", words)]
            column = start + key.width
        return Content.assemble(*parts)

    def on_click(self, event: events.Click) -> None:
        """Press the key under the mouse."""
        if (key := key_at(self.line, event.x)) and key.enabled:
            self.app.simulate_key(key.press)


def _order(id: str | None) -> int:
    return ORDER.get(id or "", len(ORDER))
