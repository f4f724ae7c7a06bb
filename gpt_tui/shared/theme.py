"""Themes of the app, a dark and a light one, in colors that color-blind people can distinguish.

Lines, marks and tones have the hues of Okabe and Ito's palette (2008), lightened on a dark background and darkened on a
light one. Each meaning also has a shape or a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.color import Color
from textual.theme import Theme

from gpt_tui.shared.contrast import contrast


def _theme(
    name: str, *, dark: bool, primary: str, secondary: str, accent: str, error: str, success: str, foreground: str,
    background: str, surface: str, panel: str, border: str, description: str, selection: str,
) -> Theme:  # fmt: skip
    """Return a theme whose warnings, keys, cursor and scrollbars have the colors of its other parts."""
    return Theme(
        name=name, dark=dark, primary=primary, secondary=secondary, accent=accent, warning=accent, error=error,
        success=success, foreground=foreground, background=background, surface=surface, panel=panel,
        variables={
            "border": border,
            "footer-key-foreground": accent,
            "footer-description-foreground": description,
            "input-selection-background": selection,
            "block-cursor-foreground": background,
            "block-cursor-background": primary,
            "block-cursor-text-style": "bold",
            "scrollbar": border,
            "scrollbar-background": background,
            "scrollbar-corner-color": background,
        },
    )  # fmt: skip


NIGHT = _theme(
    "gpt-night", dark=True, primary="#62b6f0", secondary="#8a94a8", accent="#f0b33f", error="#f2805a",
    success="#4fc79a", foreground="#d5dae4", background="#10141b", surface="#171d27", panel="#1f2733",
    border="#3a4557", description="#aab3c2", selection="#62b6f0 35%",
)  # fmt: skip

DAY = _theme(
    "gpt-day", dark=False, primary="#0b66a8", secondary="#5c6675", accent="#8a5a00", error="#b8410f",
    success="#00785a", foreground="#20262e", background="#fbfaf6", surface="#f3f1ea", panel="#e8e5db",
    border="#b9b4a4", description="#4a525e", selection="#0b66a8 25%",
)  # fmt: skip

OWN_THEMES = (NIGHT, DAY)
TEXT_VARIABLES = (
    "foreground", "text-primary", "text-secondary", "text-accent", "text-success", "text-warning", "text-error",
    "footer-key-foreground", "footer-description-foreground",
)  # fmt: skip
TEXT_CONTRAST, GRAPHICS_CONTRAST = 4.6, 3.1  # minimum contrast ratios: those of WCAG 2, level AA, and a margin

# Compared runs 1 to 8, in Okabe and Ito's hues. Each run has a number beside its color.
RUNS_ON_DARK = ("#62b6f0", "#f0b33f", "#4fc79a", "#f2805a", "#e29ac8", "#f0e442", "#7f9cff", "#c9d1de")
RUNS_ON_LIGHT = ("#0072b2", "#b36b00", "#00795a", "#c24a00", "#a5487f", "#6f6800", "#3b3fbf", "#3c4350")


def run_colors(dark: bool) -> dict[str, str]:
    """Return the variables `run-1` to `run-8` of a dark or a light theme."""
    return {f"run-{number}": color for number, color in enumerate(RUNS_ON_DARK if dark else RUNS_ON_LIGHT, 1)}


def legible(color: Color, grounds: Sequence[Color], ratio: float, *, dark: bool) -> Color:
    """Return the color, lightened in a dark theme or darkened in a light one until it has a contrast ratio.

    Args:
        color: The color.
        grounds: Backgrounds that it is seen on.
        ratio: Minimum contrast ratio to each of them.
        dark: The theme is dark.
    """
    extreme = Color.parse("#ffffff" if dark else "#000000")
    for percent in range(100):
        found = color.blend(extreme, percent / 100)
        if all(contrast(found.hex6, ground.hex6) >= ratio for ground in grounds):
            return found
    return extreme


def export_colors() -> dict[str, str]:
    """Return the colors of exported charts: those of the light theme on white, whatever the theme of the app."""
    return DAY.to_color_system().generate() | own_variables(DAY) | {"background": "#ffffff"}


def own_ground(name: str, colors: Mapping[str, str]) -> list[Color]:
    """Return the background that text of a color of its own is seen on, such as `success-muted`."""
    ground = colors.get(f"{name.removeprefix('text-')}-muted")
    return [Color.parse(ground)] if ground else []


def own_variables(theme: Theme) -> dict[str, str]:
    """Return the variables of the style sheets that Textual lacks, and those of text with enough contrast.

    `run-1` to `run-8` are the colors of compared runs, `frame` that of borders, `key` of key names, `mark` and `best`
    of evaluations, `muted` of secondary text, `faint` of disabled controls and single steps, and `on-primary` of text
    on the primary color. Frames are fainter than that of the focus. Text has the contrast ratio that WCAG 2 asks of
    text, disabled controls that of graphics.
    """
    colors = theme.to_color_system().generate() | theme.variables
    frame, key, mark, best = (colors[name] for name in ("border", "accent", "warning", "success"))
    background, foreground, surface, panel = (
        Color.parse(colors[name]) for name in ("background", "foreground", "surface", "panel")
    )
    if background.ansi is not None or foreground.ansi is not None:
        named = {"frame": frame, "key": key, "mark": mark, "best": best}
        text_colors = {"muted": colors["foreground"], "faint": "ansi_bright_black", "on-primary": "ansi_bright_white"}
        return run_colors(theme.dark) | named | text_colors
    if theme not in OWN_THEMES:
        frame = background.blend(foreground, 0.25).hex
    grounds = (background, surface, panel, Color.parse(colors["surface-lighten-1"]))

    def text(color: Color, ratio: float = TEXT_CONTRAST, *own_grounds: Color) -> str:
        return legible(color, (*grounds, *own_grounds), ratio, dark=theme.dark).hex

    primary = Color.parse(colors["primary"])
    on_primary = [background, Color.parse("#000000"), Color.parse("#ffffff")]
    muted = text(background.blend(foreground, 0.6))
    return (
        {name: text(Color.parse(colors[name]), TEXT_CONTRAST, *own_ground(name, colors)) for name in TEXT_VARIABLES}
        | run_colors(theme.dark)
        | {
            "frame": frame,
            "key": text(Color.parse(key)),
            "mark": text(Color.parse(mark)),
            "best": text(Color.parse(best)),
            "muted": muted,
            "text-disabled": muted,
            "on-primary": next(
                (each.hex for each in on_primary if contrast(each.hex6, primary.hex6) >= TEXT_CONTRAST),
                on_primary[0].hex,
            ),
            "faint": text(background.blend(foreground, 0.35), GRAPHICS_CONTRAST),
        }
    )
