"""The app's own theme: a quiet night sky, and colours that people who are colour-blind can tell apart.

Line, marks and tones take the hues of Okabe and Ito's palette (2008), lightened for a dark ground; what they mean is
always told by a shape or a word, too.
"""

from __future__ import annotations

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
