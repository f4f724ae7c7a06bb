"""First start: a run starts after a countdown, which any action of the user cancels."""

import re
from pathlib import Path

import pytest

from gpt_tui.session.phase import Phase
from gpt_tui.tabs.train.countdown import CountdownLine
from gpt_tui.tabs.train.pane import TrainTab
from tests.tui.app_bench import running_app
from tests.tui.test_chat_model import saved_model

pytestmark = pytest.mark.slow

LONG_S = 600.0


@pytest.mark.essential
async def test_a_first_start_starts_a_run_after_the_countdown(tmp_path: Path):
    async with running_app(tmp_path, countdown_s=0.3) as bench:
        await bench.until_step(5)
        assert bench.opener.requests[0].preset_name == "nano"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_countdown_is_shown_and_enter_starts_now(tmp_path: Path, size: tuple[int, int]):
    async with running_app(tmp_path, size=size, countdown_s=LONG_S) as bench:
        await bench.until(lambda: bool(re.search(r"training nano on train.en starts in \d{3} s", bench.text())))
        assert "(Enter: now, Esc: cancel)" in bench.text()
        await bench.pilot.press("enter")
        await bench.until_step(5)


@pytest.mark.parametrize("key", ["escape", "l", "f1", "f3", "ctrl+p"])
async def test_any_other_key_cancels_the_countdown(tmp_path: Path, key: str):
    async with running_app(tmp_path, countdown_s=LONG_S) as bench:
        await bench.until_seen("starts in")
        await bench.pilot.press(key)
        await bench.pilot.pause()
        assert not bench.app.main.train._countdown.running
        assert not bench.opener.requests
        await bench.pilot.press("escape", "f2", "enter")
        assert "starts in" not in bench.text()
        assert bench.phase is Phase.IDLE


async def test_a_click_cancels_the_countdown_and_a_button_runs_its_action(tmp_path: Path):
    async with running_app(tmp_path, countdown_s=LONG_S) as bench:
        await bench.until_seen("starts in")
        await bench.pilot.click("#welcome-text")
        assert not bench.app.main.train._countdown.running
        await bench.pilot.click("#button-overfit")
        await bench.until_step(1)
        assert bench.opener.requests[0].settings.overfit_tiny


async def test_a_countdown_that_ends_as_a_dialog_opens_starts_no_run(tmp_path: Path):
    async with running_app(tmp_path, countdown_s=LONG_S) as bench:
        await bench.until_seen("Enter: now")
        bench.app.action_help()
        bench.app.main.train._countdown.post_message(CountdownLine.Finished())
        await bench.pilot.press("escape")
        await bench.until(lambda: bench.app.screen is bench.app.main)
        assert not bench.opener.requests
        assert bench.phase is Phase.IDLE


async def test_no_countdown_starts_behind_a_dialog(tmp_path: Path):
    async with running_app(tmp_path, countdown_s=LONG_S) as bench:
        await bench.until_seen("starts in")
        train = bench.app.main.train
        await bench.pilot.press("f1")
        train._countdown_s = LONG_S  # as if the preview of the first run came only now
        train.post_message(TrainTab.PreviewRead(train.preview))
        await bench.pilot.pause()
        assert not train._countdown.running


async def test_a_checkpoint_prevents_the_countdown(tmp_path: Path):
    saved_model(tmp_path, "latest", 100, seed=1)
    async with running_app(tmp_path, countdown_s=0.1) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.pause(0.5)
        assert not bench.opener.requests
        assert "starts in" not in bench.text()


async def test_an_unreadable_text_prevents_the_countdown(tmp_path: Path):
    async with running_app(tmp_path, countdown_s=0.1, train_file=str(tmp_path / "nowhere.en")) as bench:
        await bench.until_seen("cannot read the text")
        await bench.pilot.pause(0.5)
        assert not bench.opener.requests
