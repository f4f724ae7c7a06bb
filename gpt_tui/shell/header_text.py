"""Text of the header, fitted to its width. Pure."""

from __future__ import annotations

from rich.cells import cell_len

from gpt_core.config.presets import CUSTOM
from gpt_tui.shared.formatting import integer, short
from gpt_tui.shared.keymap import KEYS, TABS, shown_key

PROGRAM = " gpt-tui "
MARGINS = 3  # around the tabs, and before the state
MIN_STATE_WIDTH = 20


def tab_labels(columns: int, keymap: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return key and title of each tab; the key is "" where there is no room for keys."""
    keys = {key.action: shown_key(key, keymap) for key in KEYS}
    labels = {name: (keys[f"go('{name}')"], info.title) for name, info in TABS.items()}
    if columns - tabs_width(labels) - MARGINS >= MIN_STATE_WIDTH:
        return labels
    return {name: ("", title) for name, (_, title) in labels.items()}


def program_name(columns: int, labels: dict[str, tuple[str, str]]) -> str:
    """Return the name of the program, "" where the tabs leave no room for it."""
    return PROGRAM if columns - len(PROGRAM) - tabs_width(labels) - MARGINS >= MIN_STATE_WIDTH else ""


def room_beside_tabs(columns: int, labels: dict[str, tuple[str, str]]) -> int:
    """Return the cells that program and tabs leave for model and state."""
    return columns - len(program_name(columns, labels)) - tabs_width(labels) - MARGINS


def tabs_width(labels: dict[str, tuple[str, str]]) -> int:
    """Return the width of the tabs in cells, with one cell of padding on each side."""
    return sum(cell_len(f"{key} {title}".strip()) + 2 for key, title in labels.values())


def fitted_model(name: str, room: int) -> str:
    """Return `nano · 1.19M parameters`, or a shorter form of it that fits; no word is cut off.

    The size of a custom model says more than its name.
    """
    short_name, _, size = name.removesuffix(" parameters").partition(" · ")
    for text in (name, name.removesuffix(" parameters"), size if short_name == CUSTOM and size else short_name):
        if cell_len(text) <= room:
            return text
    return ""


def fitted_step(step: int | None, room: int) -> str:
    """Return `step 12,345`, or a shorter form of it that fits; "" if there is no step."""
    if step is None:
        return ""
    options = (f"step {integer(step)}", f"step {short(step)}", "")
    return next(text for text in options if cell_len(text) <= max(0, room))
