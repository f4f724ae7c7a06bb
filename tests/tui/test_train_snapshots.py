"""Snapshots of the Train tab: every state, two sizes, several themes."""

import pytest

from gpt_core.training.events import RunFinished, RunPaused
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_events import advance
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.keymap import shown_keys
from gpt_tui.tabs.train.presenter import next_steps
from tests.tui.app_bench import settled
from tests.tui.conftest import Snapshot
from tests.tui.samples import learned
from tests.tui.still_app import still_app

pytestmark = pytest.mark.slow

SIZES = [(80, 24), (120, 40)]
PAUSED = advance(learned(), RunPaused(650))


def named(name: str, size: tuple[int, int]) -> str:
    return f"train-{name}-{size[0]}x{size[1]}"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("fixed_activation_memory")
async def test_the_welcome(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, size: tuple[int, int]):
    async with still_app(monkeypatch, RunState(), Phase.IDLE, size) as (app, _pilot):
        snapshot(app, named("welcome", size))


@pytest.mark.parametrize("size", SIZES)
async def test_getting_ready(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, size: tuple[int, int]):
    opening = ("making tokens of the text", 0.42)
    async with still_app(monkeypatch, RunState(), Phase.OPENING, size, opening=opening) as (app, _pilot):
        snapshot(app, named("opening", size))


@pytest.mark.parametrize("size", [*SIZES, (160, 50)])
async def test_a_paused_run_with_its_samples(
    monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, size: tuple[int, int]
):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, size) as (app, _pilot):
        snapshot(app, named("paused", size))


@pytest.mark.parametrize("theme", ["textual-light", "nord"])
async def test_other_themes(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, theme: str):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (120, 40), theme=theme) as (app, _pilot):
        snapshot(app, f"train-paused-{theme}")


@pytest.mark.parametrize("size", SIZES)
async def test_a_finished_run_shows_the_next_keys(
    monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, size: tuple[int, int]
):
    finished = advance(learned(), RunFinished("stopped", 650))
    async with still_app(monkeypatch, finished, Phase.STOPPED, size) as (app, pilot):
        todo = next_steps("stopped", shown_keys({}))
        app.main.banner.say(f"step 650: stopped and saved. {todo}", "good")
        await settled(app, pilot)
        snapshot(app, named("finished", size))


async def test_the_log_takes_the_samples_place_in_a_low_terminal(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        await pilot.press("v")
        await settled(app, pilot)
        snapshot(app, "train-log-80x24")


async def test_the_samples_alone(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (80, 24)) as (app, pilot):
        await pilot.press("v", "v")
        await settled(app, pilot)
        snapshot(app, "train-samples-80x24")


async def test_the_charts_read_out_with_the_sample_of_that_time(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot):
    async with still_app(monkeypatch, PAUSED, Phase.PAUSED, (120, 40)) as (app, pilot):
        await pilot.press("comma", *["comma"] * 50)
        await settled(app, pilot)
        snapshot(app, "train-reading-120x40")
