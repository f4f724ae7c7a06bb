"""The color ramp: perceptually even, readable text, and distinguishable without red and green."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from gpt_tui.shared.contrast import contrast, luminance
from gpt_tui.shared.ramp import shade

LEVELS = [step / 8 for step in range(1, 9)]


@pytest.mark.parametrize("dark", [True, False])
def test_text_on_every_color_is_readable(dark: bool) -> None:
    for level in LEVELS:
        colors = shade(level, dark=dark)
        assert colors is not None
        assert contrast(colors.background, colors.text) >= 4.5


@pytest.mark.parametrize("dark", [True, False])
def test_luminance_moves_away_from_the_background_with_the_level(dark: bool) -> None:
    found = [luminance(colors.background) for level in LEVELS if (colors := shade(level, dark=dark))]
    assert len(found) == len(LEVELS)
    assert found == sorted(found, reverse=not dark)
    lightness = [1.16 * value ** (1 / 3) - 0.16 for value in found]  # CIE L*, from 0 to 1
    steps = [abs(b - a) for a, b in pairwise(lightness)]
    assert max(steps) < 1.6 * min(steps)  # even in another space, too


def test_levels_of_about_0_and_nan_have_no_color_and_others_are_clipped() -> None:
    assert shade(0.0) is None
    assert shade(-1.0) is None
    assert shade(math.nan) is None
    assert shade(7.0) == shade(1.0)
