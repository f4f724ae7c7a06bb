"""Preferences: remapped keys and the theme."""

from pathlib import Path

import pytest

from gpt_tui.app.preferences import Preferences
from gpt_tui.session.phase import Phase
from tests.tui.app_bench import running_app

pytestmark = pytest.mark.slow


async def test_a_remapped_key_replaces_the_default_one_everywhere(tmp_path: Path):
    preferences = Preferences(keys={"train.start": "f7", "go.help": "f9"})
    async with running_app(tmp_path, preferences=preferences) as bench:
        await bench.until_seen("F7 Start")
        assert "F7   Start training" in bench.text()
        await bench.pilot.press("s")
        await bench.pilot.pause()
        assert bench.phase is Phase.IDLE
        await bench.pilot.press("f9")
        await bench.until_seen("Start a new run")
        assert "F7" in bench.text()
        await bench.pilot.press("escape", "f7")
        await bench.until_step(3)


async def test_the_preferred_theme_is_used(tmp_path: Path):
    async with running_app(tmp_path, preferences=Preferences(theme="nord")) as bench:
        assert bench.app.theme == "nord"
