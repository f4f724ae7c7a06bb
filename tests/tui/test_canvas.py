"""Lines of spans as the canvas draws them."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult

from gpt_tui.shared.canvas import Canvas
from gpt_tui.shared.ramp import shade
from gpt_tui.shared.spans import Span


class Picture(App[None]):
    """Canvas with one cell of two pixels, of which one has no level."""

    def __init__(self, upper: float, lower: float) -> None:
        super().__init__()
        self.cell = Span("▀", upper, lower)

    def compose(self) -> ComposeResult:
        yield Canvas(id="picture")

    def on_mount(self) -> None:
        self.theme = "ansi-light"
        self.query_one(Canvas).show([[self.cell]])


@pytest.mark.parametrize(("upper", "lower"), [(0.0, 0.5), (0.5, 0.0)])
async def test_a_pixel_without_a_level_has_the_background_of_the_terminal(upper: float, lower: float) -> None:
    app = Picture(upper, lower)
    async with app.run_test() as pilot:
        await pilot.pause()
        style = next(iter(app.query_one(Canvas).render_line(0))).style
        assert style is not None
        above, below = (style.bgcolor, style.color) if style.reverse else (style.color, style.bgcolor)
        assert above is not None
        assert below is not None
        level = shade(0.5, dark=False)
        assert level is not None
        assert [above.name, below.name] == (["default", level.background] if lower else [level.background, "default"])
        assert style.reverse is (True if lower else None)  # the default foreground is not the background
