"""Quitting: the question, exit codes and saves; help, palette and remapped keys."""

import math
from pathlib import Path

import pytest
from textual.widgets import Input

from gpt_tui.session.phase import Phase
from gpt_tui.shared.dialogs import ChoiceScreen
from gpt_tui.shared.keymap import KEYS
from gpt_tui.shell.help import HelpScreen
from tests.tui.app_bench import running_app
from tests.tui.fake_trainer import FakeOpen

pytestmark = pytest.mark.slow


async def test_q_quits_at_once_without_a_run(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("q")
        await bench.pilot.pause()
    assert bench.app.return_code == 0


@pytest.mark.parametrize("key", ["q", "ctrl+q"])
async def test_q_asks_during_a_run_and_escape_cancels(tmp_path: Path, key: str):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(10)
        await bench.pilot.press(key)
        await bench.until_seen("Quit gpt-tui?")
        await bench.pilot.press("escape")
        await bench.until_step(bench.app.controller.run.step + 20)
        assert bench.phase is Phase.TRAINING
        assert not isinstance(bench.app.screen, ChoiceScreen)


@pytest.mark.parametrize("answer", [pytest.param("s", marks=pytest.mark.essential), "enter", "#choice-save"])
async def test_save_and_quit_saves_and_exits_with_0(tmp_path: Path, answer: str):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(10)
        await bench.pilot.press("q")
        await bench.until_seen("Save and quit")
        if answer.startswith("#"):
            await bench.pilot.click(answer)
        else:
            await bench.pilot.press(answer)
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 0
    assert len(bench.opener.trainers[0].saved) == 1


@pytest.mark.parametrize("answer", [pytest.param(("d",), marks=pytest.mark.essential), ("down", "enter")])
async def test_quit_without_saving_saves_nothing(tmp_path: Path, answer: tuple[str, ...]):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(10)
        await bench.pilot.press("q")
        await bench.until_seen("Save and quit")
        await bench.pilot.press(*answer)
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 0
    assert bench.opener.trainers[0].saved == []


@pytest.mark.parametrize("tab", [pytest.param("f2", marks=pytest.mark.essential), "f3"])
async def test_ctrl_c_saves_with_a_banner_and_exits_with_130(tmp_path: Path, tab: str):
    async with running_app(tmp_path, opener=FakeOpen(hold_at=3), autostart=True) as bench:
        await bench.until_step(3)
        await bench.pilot.press(tab)
        await bench.pilot.press("ctrl+c")
        assert bench.app.main.banner.text == "saving, then quitting"
        bench.opener.unpause.set()
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 130
    assert len(bench.opener.trainers[0].saved) == 1


async def test_ctrl_c_copies_what_is_selected_in_a_field_before_it_quits(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("f3", *"It was")
        await bench.pilot.press("shift+home", "ctrl+c")
        assert bench.app.clipboard == "It was"
        await bench.pilot.press("f2", "u")
        screen = await bench.until_set_up()
        screen.query_one("#setting-models_dir", Input).focus()  # selects its text
        await bench.until(lambda: screen.focused.id == "setting-models_dir")
        await bench.pilot.press("ctrl+c")
        assert bench.app.clipboard == str(tmp_path)
        assert not bench.app._exit
        await bench.pilot.press("ctrl+c")
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 130


async def test_ctrl_c_works_in_a_dialog_and_pressed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "gpt_tui.app.app.SAME_PRESS_S", math.inf
    )  # the two are one double press, however late they come
    async with running_app(tmp_path, opener=FakeOpen(hold_at=3), autostart=True) as bench:
        await bench.until_step(3)
        await bench.pilot.press("q")
        await bench.pilot.press("ctrl+c", "ctrl+c")
        bench.opener.unpause.set()
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 130
    assert len(bench.opener.trainers[0].saved) == 1


async def test_ctrl_c_exits_with_130_without_a_run(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.pilot.press("ctrl+c")
        await bench.pilot.pause()
    assert bench.app.return_code == 130


async def test_f1_shows_the_keys_of_the_visible_tab(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 50)) as bench:
        await bench.pilot.press("f1")
        await bench.until_seen("Training (Train tab)")
        assert isinstance(bench.app.screen, HelpScreen)
        assert "Clear the conversation" not in bench.text()
        await bench.pilot.press("escape", "c", "f1")
        await bench.until_seen("Clear the conversation")
        assert "Training (Train tab)" not in bench.text()


async def test_the_palette_has_no_command_of_a_hidden_tab(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        seen = {command.title for command in bench.app.get_system_commands(bench.app.screen)}
        assert "Keep seed" not in seen
        assert "Chat" in seen
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        seen = {command.title for command in bench.app.get_system_commands(bench.app.screen)}
        assert "Keep seed" in seen


async def test_an_app_that_owns_its_process_collects_garbage_once_per_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done: list[str] = []
    monkeypatch.setattr("gpt_tui.app.app.COLLECT_INTERVAL_S", 0.02)
    monkeypatch.setattr("gc.freeze", lambda: done.append("frozen"))
    monkeypatch.setattr("gc.set_threshold", lambda *_: done.append("seldom"))
    monkeypatch.setattr("gc.collect", lambda: done.append("collected"))
    async with running_app(tmp_path, owns_process=True) as bench:
        await bench.until(lambda: done.count("collected") > 2)
        assert done[:3] == ["frozen", "seldom", "collected"]


async def test_the_palette_has_every_available_command(tmp_path: Path):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(5)
        titles = {command.title for command in bench.app.get_system_commands(bench.app.screen)}
        assert {"Pause", "Save", "Stop", "Log", "Theme", "Quit", "Chat"} <= titles
        assert not {"Maximize", "Minimize"} & titles
        assert "Start" not in titles
        pause = next(c for c in bench.app.get_system_commands(bench.app.screen) if c.title == "Pause")
        await bench.app.run_action("pause", bench.app.main.train)
        assert pause.help == next(key.help for key in KEYS if key.action == "pause")
        await bench.until_phase(Phase.PAUSED)


async def test_keys_can_be_remapped_by_their_ids(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        bench.app.set_keymap({"train.start": "f5"})
        await bench.pilot.press("s")
        assert bench.phase is Phase.IDLE
        await bench.pilot.press("f5")
        await bench.until_step(5)
