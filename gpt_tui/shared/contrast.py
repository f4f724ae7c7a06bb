"""Luminance and contrast of colors, as WCAG 2 defines them. Does not import Textual."""

from __future__ import annotations


def luminance(color: str) -> float:
    """Return the relative luminance of `#rrggbb`, 0 to 1."""
    values = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(color: str, other: str) -> float:
    """Return the contrast ratio of two colors `#rrggbb`, 1 to 21."""
    darker, lighter = sorted((luminance(color), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
