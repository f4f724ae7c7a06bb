"""Train tab: keys and buttons reach the controller, and its state is shown."""

import math
import os
import threading
from pathlib import Path

import msgspec
import pytest
from textual import events
from textual.widgets import Input

import gpt_tui.tabs.train.welcome
from gpt_core.errors import CorpusError, RunExistsError
from gpt_core.formats.checkpoint import read_checkpoint, write_checkpoint
from gpt_core.formats.training_state import Plan
from gpt_core.training.events import EvalProgressed, LogFailed, LossDiverged, SaveFailed
from gpt_tui.charts.chart import Chart
from gpt_tui.charts.series import nearest_row
from gpt_tui.charts.view import ChartView
from gpt_tui.session.phase import Phase
from gpt_tui.session.recent_runs import RecentRuns
from gpt_tui.session.run_finder import RunInfo, RunStatus
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.train.pane import TrainTab
from gpt_tui.tabs.train.resume_dialog import LIMITS_TEXT
from tests.tui.app_bench import AppBench, running_app
from tests.tui.conftest import PassHours
from tests.tui.fake_trainer import FakeOpen
from tests.tui.log_samples import run_events, write_log
from tests.tui.samples import trained
from tests.tui.still_app import still_app
from tests.tui.test_chat_model import saved_model

pytestmark = pytest.mark.slow

BY = [pytest.param("key", marks=pytest.mark.essential), "button"]
KEYS = {"start": "s", "pause": "p", "step": "n", "save": "w", "resume": "r", "overfit": "o", "stop": "x"}


async def do(bench: AppBench, action: str, by: str) -> None:
    if by == "key":
        await bench.pilot.press(KEYS[action])
    else:
        assert await bench.pilot.click(f"#button-{action}")
    await bench.pilot.pause()


@pytest.mark.parametrize("by", BY)
async def test_start_trains_and_stop_saves(tmp_path: Path, by: str):
    async with running_app(tmp_path) as bench:
        await bench.until_seen("Start training the nano preset")
        await do(bench, "start", by)
        await bench.until_step(30)
        assert bench.phase is Phase.TRAINING
        assert bench.opener.requests[0].preset_name == "nano"
        await do(bench, "stop", by)
        await bench.until_phase(Phase.STOPPED)
        assert len(bench.opener.trainers[0].saved) == 1
        await bench.until_seen("stopped and saved. F3: chat")


@pytest.mark.parametrize("size", [(100, 24), (120, 40)])
async def test_the_age_of_the_last_save_grows_after_the_end_of_a_run(
    tmp_path: Path, hours_pass: PassHours, size: tuple[int, int]
):
    async with running_app(tmp_path, size=size, autostart=True, max_steps=5) as bench:
        await bench.until_phase(Phase.FINISHED)
        hours_pass(2)
        await bench.until_seen("2 h ago")


async def test_the_ages_of_checkpoints_grow_on_the_home_screen(tmp_path: Path, hours_pass: PassHours):
    saved_model(tmp_path, "latest", 100, seed=1)
    async with running_app(tmp_path) as bench:
        await bench.until_seen("Resume (step 100")
        hours_pass(2)
        await bench.until_seen("Resume (step 100, saved 2 h ago)")
        await bench.until_seen("Chat with ckpt_latest (step 100, saved 2 h ago)")


async def test_the_ages_of_recent_runs_grow_on_the_home_screen_except_in_training(
    tmp_path: Path, hours_pass: PassHours, monkeypatch: pytest.MonkeyPatch
):
    ended = write_log(tmp_path / "ended", run_events(20)).stat().st_mtime
    log = write_log(tmp_path / "live", run_events(20, end=""))
    found = RecentRuns((
        RunInfo(tmp_path / "ended", RunStatus.FINISHED, updated_at=ended),
        RunInfo(tmp_path / "live", RunStatus.LIVE, updated_at=ended),
    ))  # fmt: skip
    monkeypatch.setattr(gpt_tui.tabs.train.welcome, "read_recent_runs", lambda *_arguments: found)
    async with running_app(tmp_path, size=(200, 60)) as bench:
        await bench.until_seen("recent runs")
        hours_pass(2)
        os.utime(log, (ended + 3600, ended + 3600))
        await bench.until_seen("2 h ago")
        lines = [line for line in bench.text().splitlines() if " h ago" in line]
        assert ["2 h ago" in line for line in lines if "ended" in line] == [True]
        assert ["1 h ago" in line for line in lines if "live" in line] == [True]


@pytest.mark.parametrize("by", BY)
async def test_pause_step_and_continue(tmp_path: Path, by: str):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(10)
        await do(bench, "pause", by)
        await bench.until_phase(Phase.PAUSED)
        await bench.until_seen("‖ paused")
        await bench.until_seen("p Continue")
        at = bench.app.controller.run.step
        await do(bench, "step", by)
        await bench.until_step(at + 1)
        await bench.pilot.pause(0.05)
        assert bench.app.controller.run.step == at + 1
        await do(bench, "pause", by)
        await bench.until_step(at + 20)
        assert bench.phase is Phase.TRAINING


@pytest.mark.parametrize("by", BY)
async def test_save_saves_while_training_continues(tmp_path: Path, by: str):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(10)
        await do(bench, "save", by)
        await bench.until(lambda: bench.app.controller.run.saved is not None)
        saved = bench.opener.trainers[0].saved[0]
        await bench.until_step(saved + 5)
        assert any(f"at step {saved:,}" in n.message for n in bench.app._notifications)


async def test_the_evaluate_key_evaluates(tmp_path: Path):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(10)
        await bench.pilot.press("e")
        await bench.until(lambda: bench.app.controller.run.evaluation is not None)


@pytest.mark.parametrize("by", BY)
async def test_resume_continues_from_the_newest_checkpoint(tmp_path: Path, by: str):
    saved_model(tmp_path, "latest", 100, seed=1)
    async with running_app(tmp_path, max_steps=110) as bench:
        await bench.until_seen("Resume (step 100")
        await do(bench, "resume", by)
        await bench.until_phase(Phase.FINISHED)
        assert bench.opener.requests[0].resume == "newest"
        assert bench.app.controller.run.curve.rows()[:, 0].tolist() == list(range(101, 111))


@pytest.mark.parametrize(
    ("limits", "reached", "suggested"),
    [
        ({"max_steps": 100}, {}, {"max_steps": "0", "max_epochs": "20", "patience": "3"}),
        ({"max_epochs": 2}, {"epoch": 2}, {"max_steps": "0", "max_epochs": "4", "patience": "3"}),
        ({}, {"finished": "early_stopping"}, {"max_steps": "0", "max_epochs": "20", "patience": "3"}),
    ],
)
async def test_resuming_a_finished_run_asks_for_its_new_limits(
    tmp_path: Path, limits: dict[str, int], reached: dict[str, object], suggested: dict[str, str]
):
    finished_model(tmp_path, limits, reached)
    async with running_app(tmp_path) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.press("r")
        await bench.until_seen("Train a finished run longer")
        fields = {name: bench.app.screen.query_one(f"#limit-{name}", Input) for name in suggested}
        assert {name: field.value for name, field in fields.items()} == suggested
        assert LIMITS_TEXT in " ".join(bench.text().replace("│", " ").split())
        for text in ("total max_steps", "total max_epochs (1000000: no limit)"):
            assert text in bench.text()
        fields["max_steps"].value = "90"
        await bench.pilot.press("enter")
        await bench.until_seen("expected more than 100")
        fields["max_steps"].value = "130"
        await bench.pilot.press("enter")
        await bench.until_step(101)
        request = bench.opener.requests[0].located()
        assert request.settings.max_steps == 130
        assert request.settings.max_epochs == int(suggested["max_epochs"])


async def test_the_minutes_of_a_finished_run_are_those_in_all(tmp_path: Path):
    plan = Plan(step=100, progress=1.0, last_step=100, elapsed_s=60.1, step_s=0.6, budget_s=60.0)
    finished_model(tmp_path, {"minutes": 1}, {"elapsed_s": 60.1, "plan": plan})
    async with running_app(tmp_path) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.press("r")
        await bench.until_seen("total minutes (0: no limit)")
        field = bench.app.screen.query_one("#limit-minutes", Input)
        assert field.value == "2"
        field.value = "1"
        await bench.pilot.press("enter")
        await bench.until_seen("minutes: got 1, expected more than 1, where the run has ended")


async def test_the_dialog_of_a_finished_run_can_be_cancelled(tmp_path: Path):
    finished_model(tmp_path, {"max_steps": 100}, {})
    async with running_app(tmp_path) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.press("r")
        await bench.until_seen("Train a finished run longer")
        await bench.pilot.press("escape")
        await bench.settled()
        assert bench.phase is Phase.IDLE
        assert bench.opener.requests == []


async def test_a_field_of_the_dialog_keeps_all_lines_of_a_paste(tmp_path: Path):
    finished_model(tmp_path, {"max_steps": 100}, {})
    async with running_app(tmp_path) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.press("r")
        await bench.until_seen("Train a finished run longer")
        box = bench.app.screen.query_one("#limit-max_steps", Input)
        box.post_message(events.Paste("1\r\n30\r\n"))
        await bench.until(lambda: "30" in box.value)
        assert box.value == "1 30"


def finished_model(models_dir: Path, limits: dict[str, int], reached: dict[str, object]) -> None:
    """Save a checkpoint of a run that has ended at step 100."""
    saved_model(models_dir, "latest", 100, seed=1)
    path = models_dir / "ckpt_latest.safetensors"
    checkpoint = read_checkpoint(path)
    settings = msgspec.structs.replace(checkpoint.settings, patience=3, **({"max_epochs": 20} | limits))
    state = msgspec.structs.replace(checkpoint.state, **reached)
    write_checkpoint(path, checkpoint._replace(settings=settings, state=state))


@pytest.mark.parametrize("by", ["key", "button"])
async def test_the_self_test_runs_and_finishes(tmp_path: Path, by: str):
    async with running_app(tmp_path, overfit_steps=60) as bench:
        await do(bench, "overfit", by)
        await bench.until_phase(Phase.FINISHED)
        assert bench.opener.requests[0].settings.overfit_tiny
        await bench.until_seen("step 60: self-test finished")


async def test_buttons_are_enabled_by_phase(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.settled()
        idle = {action for action in KEYS if not bench.button(action).disabled}
        assert idle == {"start", "overfit"}
        await bench.pilot.press("x", "p", "w", "n", "r")
        assert bench.phase is Phase.IDLE
        await bench.pilot.press("s")
        await bench.until_step(5)
        await bench.until(
            lambda: (
                {action for action in KEYS if not bench.button(action).disabled} == {"pause", "step", "save", "stop"}
            )
        )
        await bench.pilot.press("s", "o", "r")
        assert len(bench.opener.requests) == 1


async def test_an_unavailable_key_shows_its_reason_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(5)
        monkeypatch.setattr(bench.app.main.train, "notify", lambda words, **_: told.append(words))
        monkeypatch.setattr("gpt_tui.tabs.train.key_hints.HINT_S", math.inf)  # however long the keys take to come
        await bench.pilot.press("s", "r", "o", "u", "s")
        assert told == ["a run is in progress (x: stop)"]
        await bench.pilot.press("p", "v", "l", "down", "f3", "s", "f2")
        assert told == ["a run is in progress (x: stop)"]
        await bench.pilot.press("x")
        await bench.until_phase(Phase.STOPPED)
        await bench.pilot.press("w")
        assert told[1:] == ["no run in progress (s: start one)"]


async def test_getting_ready_is_shown_and_can_be_stopped(tmp_path: Path):
    async with running_app(tmp_path, opener=FakeOpen(gate=threading.Event()), autostart=True) as bench:
        await bench.until_seen("making tokens of the text")
        await bench.until_seen("50.0%")
        await bench.pilot.press("x")
        await bench.until_phase(Phase.IDLE)
        await bench.until_seen("Start training")


async def test_a_pause_requested_during_an_evaluation_is_shown_and_can_be_cancelled(tmp_path: Path):
    opener = FakeOpen(hold_at=30)
    async with running_app(tmp_path, size=(120, 40), opener=opener, autostart=True) as bench:
        await bench.until_step(30)
        bench.app.controller._buffer.put(EvalProgressed(30, 1, 8))
        await bench.until_phase(Phase.EVALUATING)
        for key in ("p", "n"):
            await bench.pilot.press(key)
            await bench.until(lambda: any("pausing after" in notice.message for notice in bench.app._notifications))
            await bench.until_seen("p Continue")
            assert opener.trainers[0].requests.pausing
            await bench.pilot.press("p")
            await bench.until_seen("p Pause")
            assert not opener.trainers[0].requests.pausing
            bench.app.clear_notifications()


async def test_charts_and_status_show_the_run(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 40), opener=FakeOpen(step_s=0.0002), autostart=True) as bench:
        await bench.until_step(600)
        await bench.pilot.press("p")
        await bench.until_phase(Phase.PAUSED)
        assert "not improved" in bench.text()  # how soon a run stops early
        await bench.pilot.press("x")
        await bench.until_phase(Phase.STOPPED)
        for chart in bench.app.main.query_one(TrainTab).charts.query(Chart):
            assert chart.state is bench.app.controller.run
        shown = bench.text()
        for words in ("loss", "perplexity", "◆", "★", "bits/byte", "1.06M", "stopped"):
            assert words in shown
        assert "not improved" not in shown


async def test_chart_keys_change_scale_axis_and_zoom(tmp_path: Path):
    async with running_app(tmp_path, autostart=True) as bench:
        await bench.until_step(300)
        await bench.pilot.press("p", "l", "a")
        pane = bench.app.main.query_one(TrainTab).charts
        assert (pane.view.log, pane.view.axis) == (True, "tokens")
        await bench.until_seen("log scale")
        assert "tok " in bench.text()
        await bench.pilot.press("plus", "left")
        assert pane.view.span == 0.5
        assert pane.view.end is not None
        assert all(chart.view == pane.view for chart in pane.query(Chart))
        await bench.pilot.press("minus")
        assert pane.view.span == 1.0
        await bench.pilot.press("plus", "plus", "0")
        assert (pane.view.span, pane.view.end) == (1.0, None)


async def test_the_mouse_shows_the_values_at_a_step(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 40), autostart=True) as bench:
        await bench.until_step(300)
        await bench.pilot.press("p")
        await bench.until_phase(Phase.PAUSED)
        pane = bench.app.main.query_one(TrainTab).charts
        assert await bench.pilot.hover("#charts .loss", offset=(40, 5))
        assert pane.view.cursor is not None
        row = nearest_row(bench.app.controller.run, "steps", pane.view.cursor)
        assert row is not None
        await bench.until_seen(f"step {row[0]:.0f}  ⣿ step loss {row[3]:.3f}  ⠒⠒ train loss {row[-1]:.3f}")


async def test_an_error_of_the_trainer_is_shown_and_the_app_continues(tmp_path: Path):
    opener = FakeOpen(fail_at={40: ZeroDivisionError("so it goes")})
    async with running_app(tmp_path, size=(120, 40), opener=opener, autostart=True) as bench:
        await bench.until_phase(Phase.FAILED)
        await bench.until_seen("✗ ZeroDivisionError: so it goes")
        assert "✗ failed" in bench.text()
        opener.fail_at.clear()
        await bench.pilot.press("s")
        await bench.until_step(60)
        assert not bench.app.main.banner.display


async def test_an_error_for_the_user_is_shown_without_markup(tmp_path: Path):
    opener = FakeOpen(error=CorpusError("no training text: put one at [b]data/raw[/b]"))
    async with running_app(tmp_path, opener=opener, autostart=True) as bench:
        await bench.until_seen("✗ no training text: put one at [b]data/raw[/b]")


async def set_up_and_leave(bench: AppBench, layers: str) -> None:
    """Open the set-up screen, type a number of layers if there is one, and leave it."""
    await bench.pilot.press("u")
    await bench.until_seen("Set up a run")
    if layers:
        bench.app.screen.query_one("#setting-layers", Input).value = layers
        await bench.pilot.pause()
    await bench.pilot.press("escape")
    await bench.until(lambda: bench.app.screen is bench.app.main)


@pytest.mark.parametrize("layers", [pytest.param("3", marks=pytest.mark.essential), ""])
async def test_the_failure_of_a_start_is_shown_until_the_next_run_is_looked_at_again(tmp_path: Path, layers: str):
    opener = FakeOpen(error=CorpusError("the disk is full"))
    async with running_app(tmp_path, size=(120, 40), opener=opener, autostart=True) as bench:
        await bench.until_seen("✗ the disk is full")
        assert "✗ failed" in bench.text()
        await set_up_and_leave(bench, layers)
        await bench.until(lambda: "✗" not in bench.text())
        assert bench.phase is Phase.IDLE
        assert not bench.app.main.banner.display


async def test_the_failure_of_a_run_is_shown_as_long_as_its_charts(tmp_path: Path):
    opener = FakeOpen(fail_at={40: ZeroDivisionError("so it goes")})
    async with running_app(tmp_path, size=(120, 40), opener=opener, autostart=True) as bench:
        await bench.until_seen("✗ ZeroDivisionError: so it goes")
        await set_up_and_leave(bench, "3")
        await bench.settled()
        assert "✗ failed" in bench.text()
        assert "✗ ZeroDivisionError: so it goes" in bench.text()


async def test_a_failed_save_is_shown_until_the_next_one(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 40), autostart=True) as bench:
        await bench.until_step(5)
        bench.app._announce(SaveFailed("latest", "x", 5, "disk full"))
        await bench.until_seen("✗ not saved: disk full")
        await bench.pilot.press("w")
        await bench.until(lambda: not bench.app.main.banner.display)


async def test_a_divergence_is_shown_until_the_train_loss_has_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = LossDiverged(5, 30.0, 7.6)
    async with running_app(tmp_path, size=(120, 40), autostart=True) as bench:
        await bench.until_step(5)
        monkeypatch.setattr(RunState, "diverging", property(lambda _: found))
        bench.app._announce(found)
        await bench.until_step(bench.app.controller.run.step + 20)
        assert "step 5: " in bench.app.main.banner.text
        monkeypatch.setattr(RunState, "diverging", property(lambda _: None))
        await bench.until(lambda: not bench.app.main.banner.display)


async def test_a_log_that_cannot_be_written_is_a_notice_and_a_line_of_the_log(tmp_path: Path):
    opener = FakeOpen(hold_at=5)
    async with running_app(tmp_path, size=(120, 40), opener=opener, autostart=True) as bench:
        await bench.until_step(5)
        bench.app.controller._buffer.put(LogFailed(5, "models/metrics.jsonl: \x1bNo space left on device"))
        await bench.until(lambda: bool(bench.app._notifications))
        (notice,) = bench.app._notifications
        text = "the log of the run is incomplete from step 5 on; training continues: models/metrics.jsonl: "
        assert notice.message.startswith(text)
        assert "\x1b" not in notice.message
        assert bench.app.controller.run.log[-1].text.startswith(text)
        opener.unpause.set()


@pytest.mark.parametrize(
    ("key", "wanted"),
    [pytest.param("d", "overwrite", marks=pytest.mark.essential), ("r", "resume"), ("b", "beside"), ("escape", "")],
)
async def test_an_existing_run_is_asked_about(tmp_path: Path, key: str, wanted: str):
    saved_model(tmp_path, "latest", 100, seed=1)
    opener = FakeOpen(
        error=RunExistsError("models holds another run's checkpoints: ckpt_latest.safetensors (step 100)")
    )
    async with running_app(tmp_path, opener=opener) as bench:
        await bench.until_seen("Resume (step 100")
        await bench.pilot.press("s")
        await bench.until_seen("This folder already has a run")
        opener.error = None
        await bench.pilot.press(key)
        if wanted:
            await bench.until_step(5)
            request = opener.requests[-1]
            assert (request.overwrite, request.resume == "newest") == (wanted == "overwrite", wanted == "resume")
            folder = f"{tmp_path}-2" if wanted == "beside" else str(tmp_path)
            assert request.settings.models_dir == folder
            assert bench.app.main.train.settings.models_dir == folder
            assert bench.app.main._models.models_dir == folder
        else:
            await bench.pilot.pause()
            assert len(opener.requests) == 1


async def test_a_missing_text_is_shown_before_a_start(tmp_path: Path):
    async with running_app(tmp_path, train_file=str(tmp_path / "nowhere.en")) as bench:
        await bench.until_seen("cannot read the text")


@pytest.mark.parametrize("size", [(100, 24), (120, 40)])
async def test_a_step_has_the_same_column_in_both_charts(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]):
    history = trained(300, lambda number: 3.0 + 9.0 * math.exp(-number / 100))  # perplexities of five digits
    async with still_app(monkeypatch, history, Phase.PAUSED, size) as (app, pilot):
        app.main.train.charts.view = ChartView(cursor=150, y_range="full")
        await pilot.pause()
        places = []
        for chart in app.main.train.charts.query(Chart):
            lines = [chart.render_line(row).text for row in range(chart.size.height)]
            places.append({line.index("│") for line in lines if "│" in line})
        assert places[0] == places[1]
        assert len(places[0]) == 1


async def test_a_run_can_be_resumed_when_the_process_that_trained_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trains = [True]
    for module in ("gpt_tui.session.run_preview", "gpt_tui.tabs.train.pane"):
        monkeypatch.setattr(f"{module}.is_trained_in", lambda folder: bool(trains))
    saved_model(tmp_path, "latest", 100, seed=1)
    async with running_app(tmp_path) as bench:
        told: list[str] = []
        monkeypatch.setattr(bench.app, "notify", lambda message, **_: told.append(message))
        await bench.until(lambda: bool(bench.app.main.train.preview.in_use))
        await bench.pilot.press("r")
        assert told == [f"another process trains in {tmp_path}; its run can be resumed when it has ended"]
        trains.clear()
        await bench.until_seen("Resume (step 100")
