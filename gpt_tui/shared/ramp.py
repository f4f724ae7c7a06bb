"""Color ramp of a quantity from 0 to 1, perceptually even and without red and green.

Lightness in OKLab (Ottosson 2020) grows evenly, and the hue goes from blue to yellow, which color-blind people
distinguish, as in cividis (Nuñez et al. 2018). Level 0 is close to the background of the theme.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt_tui.shared.contrast import luminance

STEPS = 32  # colors of a ramp: more would look alike
MIN_LEVEL = 0.02  # below it, text has no background
MAX_BITS = 12.0  # surprise of a token with the strongest color
LEGEND_BITS = (0, 1, 2, 4, 6, 8, 10, 12)  # whose colors a legend shows


class Shade(NamedTuple):
    """Background color, and the color of text on it, as `#rrggbb`."""

    background: str
    text: str


class _Ends(NamedTuple):
    """Lightness, chroma and hue in degrees at both ends of a ramp."""

    lightness: tuple[float, float]
    chroma: tuple[float, float]
    hue: tuple[float, float]


_ON_DARK = _Ends((0.25, 0.90), (0.07, 0.15), (265.0, 95.0))
_ON_LIGHT = _Ends((0.97, 0.42), (0.06, 0.13), (95.0, 265.0))


def shade(level: float, *, dark: bool = True) -> Shade | None:
    """Return the colors for a level from 0 to 1; None for a level of about 0, and for NaN.

    Args:
        level: Values outside of 0 to 1 are clipped.
        dark: True for a dark background.
    """
    if not level >= MIN_LEVEL:
        return None
    ends = _ON_DARK if dark else _ON_LIGHT
    position = round(min(level, 1.0) * STEPS) / STEPS
    lightness, chroma, hue = (low + (high - low) * position for low, high in ends)
    rgb = _srgb(lightness, chroma, math.radians(hue))
    background = "#" + "".join(f"{round(value * 255):02x}" for value in rgb)
    return Shade(background, "#000000" if luminance(background) > 0.179 else "#ffffff")


def _srgb(lightness: float, chroma: float, hue: float) -> tuple[float, ...]:
    """Return the sRGB values, 0 to 1, of a color in OKLab's polar coordinates."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long, medium, short = (
        (lightness + x * a + y * b) ** 3
        for x, y in ((0.3963377774, 0.2158037573), (-0.1055613458, -0.0638541728), (-0.0894841775, -1.2914855480))
    )  # fmt: skip
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    clipped = (min(1.0, max(0.0, value)) for value in linear)
    return tuple(12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055 for value in clipped)
