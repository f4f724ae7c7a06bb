"""What the first line of the screen says, in the room there is. Pure."""

from __future__ import annotations

from rich.cells import cell_len

from gpt_tui.shared.keymap import KEYS, TABS, shown_key

KEYED_COLUMNS = 100  # a screen of so many columns has room for the tabs' keys


def tab_labels(columns: int, keymap: dict[str, str]) -> dict[str, tuple[str, str]]:
    """For each tab its key, "" where there is no room for the keys, and its title."""
    keys = {key.action: shown_key(key, keymap) for key in KEYS}
    return {
        name: (keys[f"go('{name}')"] if columns >= KEYED_COLUMNS else "", facts.title) for name, facts in TABS.items()
    }


def tabs_width(labels: dict[str, tuple[str, str]]) -> int:
    """Cells that the tabs take, one free on each side of each."""
    return sum(cell_len(f"{key} {title}".strip()) + 2 for key, title in labels.values())


def fitted_model(name: str, room: int) -> str:
    """`nano · 1.19M parameters`, or as much of it as is worth showing: never a word that is cut off."""
    for text in (name, name.removesuffix(" parameters"), name.partition(" · ")[0]):
        if cell_len(text) <= room:
            return text
    return ""
