"""Contrast of text and background, computed from the drawn screen of each theme as WCAG 2 does."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.style import Style
from textual.app import App
from textual.color import Color
from textual.theme import BUILTIN_THEMES
from textual.widgets import Button

from gpt_tui.session.phase import Phase
from gpt_tui.shared.button_row import ButtonRow
from gpt_tui.shared.contrast import contrast
from gpt_tui.shared.theme import DAY, NIGHT, OWN_THEMES, own_variables
from tests.tui.samples import learned
from tests.tui.still_app import still_app

pytestmark = pytest.mark.slow

MIN_TEXT, MIN_DISABLED = 4.5, 3.0
COLORED = [name for name in BUILTIN_THEMES if not name.startswith("ansi")]
THEMES = [NIGHT.name, DAY.name, *COLORED]
TABS = ("f2", "f3", "f4", "f5", "f6")


def ratio(style: Style) -> float:
    assert style.color is not None
    assert style.bgcolor is not None
    colors = (style.bgcolor, style.color) if style.reverse else (style.color, style.bgcolor)
    front, ground = (color.get_truecolor().hex for color in colors)
    return contrast(front, ground)


def faint_texts(app: App[None], disabled_rows: range) -> list[tuple[str, float]]:
    """Return the texts on the screen with too little contrast, and their contrast ratio."""
    found = []
    for y, strip in enumerate(app.screen._compositor.render_strips()):
        for text, style, _ in strip:
            if style is None or not any(character.isalnum() for character in text):
                continue
            least = MIN_DISABLED if y in disabled_rows else MIN_TEXT
            if (shown := ratio(style)) < least - 0.01:
                found.append((text.strip(), round(shown, 2)))
    return found


@pytest.mark.parametrize("theme", THEMES)
async def test_every_text_of_every_tab_has_enough_contrast(
    theme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    async with still_app(monkeypatch, learned(), Phase.PAUSED, (120, 40)) as (app, pilot):
        app.theme = theme
        for key in TABS:
            await pilot.press(key)
            await pilot.pause()
            row = app.query_one(ButtonRow).region
            disabled = range(row.y, row.bottom) if key == "f2" else range(0)
            found = faint_texts(app, disabled)
            assert found == [], (key, found[:12])


@pytest.mark.parametrize("name", [name for name in BUILTIN_THEMES if name not in COLORED])
def test_a_theme_of_the_colors_of_the_terminal_lacks_no_variable(name: str) -> None:
    theme = BUILTIN_THEMES[name]
    ansi = theme.to_color_system().generate() | theme.variables | own_variables(theme)
    assert set(own_variables(NIGHT)) <= set(ansi)


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
@pytest.mark.parametrize("theme", [name for name in BUILTIN_THEMES if name not in COLORED])
async def test_disabled_and_pressed_buttons_have_their_label_in_the_colors_of_the_terminal(
    theme: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with still_app(monkeypatch, learned(), Phase.TRAINING, size) as (app, pilot):
        app.theme = theme
        app.query_one("#button-pause", Button).add_class("-active")
        await pilot.pause()
        row = app.query_one(ButtonRow).region
        shown = "".join(strip.text for strip in app.screen._compositor.render_strips()[row.y : row.bottom])
        assert app.query_one("#button-start", Button).disabled
        for button in app.query_one(ButtonRow).query(Button):
            assert str(button.label) in shown


def test_the_contrast_ratio_is_that_of_wcag() -> None:
    black, white, gray = "#000000", "#ffffff", "#777777"
    assert contrast(black, white) == contrast(white, black) == pytest.approx(21.0)
    assert contrast(gray, white) == pytest.approx(4.48, abs=0.005)


@pytest.mark.essential
@pytest.mark.parametrize("theme", [*OWN_THEMES, *(BUILTIN_THEMES[name] for name in COLORED)], ids=lambda it: it.name)
def test_secondary_text_keys_and_marks_have_enough_contrast_on_every_ground(theme) -> None:  # type: ignore[no-untyped-def]
    variables = own_variables(theme)
    colors = theme.to_color_system().generate()
    for ground in ("background", "surface", "panel"):
        for name in ("muted", "key", "mark", "best"):
            assert contrast(Color.parse(variables[name]).hex6, Color.parse(colors[ground]).hex6) >= MIN_TEXT
        assert contrast(Color.parse(variables["faint"]).hex6, Color.parse(colors[ground]).hex6) >= MIN_DISABLED
