"""Text of the header, fitted to its width. Pure."""

from __future__ import annotations

from rich.cells import cell_len

from gpt_tui.shared.keymap import KEYS, TABS, shown_key

MIN_COLUMNS_FOR_KEYS = 100


def tab_labels(columns: int, keymap: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return key and title of each tab; the key is "" where there is no room for keys."""
    keys = {key.action: shown_key(key, keymap) for key in KEYS}
    return {
        name: (keys[f"go('{name}')"] if columns >= MIN_COLUMNS_FOR_KEYS else "", info.title)
        for name, info in TABS.items()
    }


def tabs_width(labels: dict[str, tuple[str, str]]) -> int:
    """Return the width of the tabs in cells, with one cell of padding on each side."""
    return sum(cell_len(f"{key} {title}".strip()) + 2 for key, title in labels.values())


def fitted_model(name: str, room: int) -> str:
    """Return `nano · 1.19M parameters`, or a shorter form of it that fits; no word is cut off."""
    for text in (name, name.removesuffix(" parameters"), name.partition(" · ")[0]):
        if cell_len(text) <= room:
            return text
    return ""
