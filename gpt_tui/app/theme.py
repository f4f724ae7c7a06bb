"""Themes of the app, a dark and a light one, in colours that colour-blind people can distinguish.

Lines, marks and tones have the hues of Okabe and Ito's palette (2008), lightened on a dark background and darkened on a
light one. Each meaning also has a shape or a word.
"""

from __future__ import annotations

from textual.color import Color
from textual.theme import Theme

NIGHT = Theme(
    name="gpt-night",
    primary="#62b6f0",
    secondary="#8a94a8",
    accent="#f0b33f",
    warning="#f0b33f",
    error="#f2805a",
    success="#4fc79a",
    foreground="#d5dae4",
    background="#10141b",
    surface="#171d27",
    panel="#1f2733",
    dark=True,
    variables={
        "border": "#3a4557",
        "footer-key-foreground": "#f0b33f",
        "footer-description-foreground": "#aab3c2",
        "input-selection-background": "#62b6f0 35%",
        "block-cursor-foreground": "#10141b",
        "block-cursor-background": "#62b6f0",
        "block-cursor-text-style": "bold",
        "scrollbar": "#3a4557",
        "scrollbar-background": "#10141b",
        "scrollbar-corner-color": "#10141b",
    },
)

DAY = Theme(
    name="gpt-day",
    primary="#0b66a8",
    secondary="#5c6675",
    accent="#8a5a00",
    warning="#8a5a00",
    error="#b8410f",
    success="#00785a",
    foreground="#20262e",
    background="#fbfaf6",
    surface="#f3f1ea",
    panel="#e8e5db",
    dark=False,
    variables={
        "border": "#b9b4a4",
        "footer-key-foreground": "#8a5a00",
        "footer-description-foreground": "#4a525e",
        "input-selection-background": "#0b66a8 25%",
        "block-cursor-foreground": "#fbfaf6",
        "block-cursor-background": "#0b66a8",
        "block-cursor-text-style": "bold",
        "scrollbar": "#b9b4a4",
        "scrollbar-background": "#fbfaf6",
        "scrollbar-corner-color": "#fbfaf6",
    },
)

OWN_THEMES = (NIGHT, DAY)

# Compared runs 1 to 8, in Okabe and Ito's hues. Each run has a number beside its colour.
RUNS_ON_DARK = ("#62b6f0", "#f0b33f", "#4fc79a", "#f2805a", "#e29ac8", "#f0e442", "#7f9cff", "#c9d1de")
RUNS_ON_LIGHT = ("#0072b2", "#b36b00", "#00795a", "#c24a00", "#a5487f", "#6f6800", "#3b3fbf", "#3c4350")


def run_colours(dark: bool) -> dict[str, str]:
    """Return the variables `run-1` to `run-8` of a dark or a light theme."""
    return {f"run-{number}": colour for number, colour in enumerate(RUNS_ON_DARK if dark else RUNS_ON_LIGHT, 1)}


def own_variables(theme: Theme) -> dict[str, str]:
    """Return the variables of the style sheets that Textual lacks: `run-1` to `run-8`, `frame`, `key`, `mark`, `best`.

    In Textual's themes, frames are fainter than that of the focus, and keys and marks have enough contrast.
    """
    colours = theme.to_color_system().generate()
    frame, key, mark, best = (colours[name] for name in ("border", "accent", "warning", "success"))
    background, foreground = (Color.parse(colours[name]) for name in ("background", "foreground"))
    if theme not in OWN_THEMES and background.ansi is None and foreground.ansi is None:
        frame = background.blend(foreground, 0.25).hex
        key, mark, best = (colours[f"text-{name}"] for name in ("accent", "warning", "success"))
    return run_colours(theme.dark) | {"frame": frame, "key": key, "mark": mark, "best": best}
