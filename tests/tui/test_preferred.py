"""Preferences: remapped keys and the theme."""

from pathlib import Path

import pytest

from gpt_tui.app.app import GptApp
from gpt_tui.app.preferences import Preferences
from gpt_tui.session.phase import Phase
from gpt_tui.tabs.chat.prompt_area import PromptArea
from tests.tui.app_bench import running_app

pytestmark = pytest.mark.slow


async def test_a_remapped_key_replaces_the_default_one_everywhere(tmp_path: Path):
    preferences = Preferences(keys={"train.start": "f7", "go.help": "f9"})
    async with running_app(tmp_path, preferences=preferences) as bench:
        await bench.until_seen("F7 Start")
        await bench.until_seen("F7   Start training")
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


async def test_a_theme_picked_in_the_palette_is_remembered(tmp_path: Path):
    remembered: list[str] = []
    async with running_app(tmp_path, remember_theme=remembered.append) as bench:
        bench.app.theme = "nord"
        await bench.pilot.pause()
        bench.app.theme = "nord"
        await bench.pilot.pause()
        assert remembered == ["nord"]


async def test_a_theme_that_cannot_be_remembered_is_used_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notified: list[str] = []
    monkeypatch.setattr(GptApp, "notify", lambda _self, message, **_options: notified.append(message))

    def fail(_name: str) -> None:
        raise OSError(30, "Read-only file system")

    async with running_app(tmp_path, size=(120, 40), remember_theme=fail) as bench:
        bench.app.theme = "nord"
        await bench.until(lambda: notified == ["theme not remembered: Read-only file system"])
        assert bench.app.theme == "nord"


@pytest.mark.parametrize("key", ["s", "S", "ы", "Ы", "і"])
async def test_letter_keys_work_in_the_other_case_and_on_a_cyrillic_layout(tmp_path: Path, key: str):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press(key)
        await bench.until_step(1)


async def test_a_key_bound_in_the_other_case_keeps_its_own_action(tmp_path: Path):
    async with running_app(tmp_path, preferences=Preferences(keys={"train.setup": "S"})) as bench:
        await bench.pilot.press("S")
        await bench.until_set_up()


async def test_answers_of_dialogs_work_in_the_other_case_and_on_a_cyrillic_layout(tmp_path: Path):
    for key in ("D", "в"):
        async with running_app(tmp_path / key, autostart=True) as bench:
            await bench.until_step(1)
            await bench.pilot.press("Й")
            await bench.until_seen("Quit without saving")
            await bench.pilot.press(key)
            await bench.until(lambda: not bench.app.is_running)


async def test_a_letter_of_another_layout_is_hinted_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notified: list[str] = []
    monkeypatch.setattr(GptApp, "notify", lambda _self, message, **_options: notified.append(message))
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.pilot.press("σ", "λ", "ש")
        await bench.pilot.pause()
        assert notified == ["Keys are Latin letters: switch the keyboard layout"]


async def test_text_of_other_layouts_is_typed_unchanged(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("с", *"Привет S σ")
        assert bench.app.main.query_one("#prompt", PromptArea).text == "Привет S σ"


@pytest.mark.parametrize("key", ["ctrl+u", "ctrl+k", "ctrl+w"])
async def test_a_key_that_edits_text_by_default_can_be_a_key_of_chat_and_of_the_set_up_screen(tmp_path: Path, key: str):
    preferences = Preferences(keys={"chat.clear": key, "setup.back": key})
    async with running_app(tmp_path, preferences=preferences) as bench:
        await bench.pilot.press("f3", "I")
        prompt = bench.app.main.query_one(PromptArea)
        assert key not in prompt._bindings.key_to_bindings
        assert "ctrl+left" in prompt._bindings.key_to_bindings
        await bench.pilot.press("f2", "u")
        screen = await bench.until_set_up()
        await bench.pilot.press(key)
        await bench.until(lambda: bench.app.screen is not screen)
