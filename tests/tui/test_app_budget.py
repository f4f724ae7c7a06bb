"""Time budgets before a run: the first start trains for five minutes, and a key chooses another time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from textual.widgets import Input

from gpt_core.errors import CorpusError
from gpt_core.training.request import RunRequest
from gpt_tui.shared.formatting import minutes_text
from gpt_tui.tabs.train.presenter import budget_choice, next_budget
from tests.tui.app_bench import AppBench, running_app
from tests.tui.fake_probes import fake_probes
from tests.tui.fake_trainer import fake_settings
from tests.tui.test_chat_model import saved_model

LONG_S = 600.0


def test_the_key_goes_through_the_times_and_begins_again() -> None:
    assert [next_budget(minutes) for minutes in (0, 1, 5, 30, 480, 10_000)] == [1, 5, 30, 480, 1, 1]


def test_times_are_written_in_words() -> None:
    assert [minutes_text(minutes) for minutes in (0.5, 1, 30, 480)] == [
        "0.5 minutes", "1 minute", "30 minutes", "8 hours",
    ]  # fmt: skip


def test_the_choice_names_every_time_but_the_present_one() -> None:
    assert budget_choice(5) == "Train for 30 minutes (again: 8 hours, 1 minute)"
    assert budget_choice(480) == "Train for 1 minute (again: 5 minutes, 30 minutes)"
    assert budget_choice(0) == "Train for 1 minute (again: 5 minutes, 30 minutes, 8 hours)"


def budget_run(minutes: float) -> RunRequest:
    """Return a run whose depth follows from the time."""
    settings = msgspec.structs.replace(fake_settings("elsewhere"), minutes=minutes, layers=2 if minutes < 30 else 6)
    return RunRequest(settings, "nano", model_reason=f"because {minutes:g} minutes are enough")


def when(measured: threading.Event) -> Callable[[float], RunRequest]:
    """Return a measurement that ends when the event is set."""

    def measure(minutes: float) -> RunRequest:
        measured.wait(LONG_S)
        return budget_run(minutes)

    return measure


def first_start(folder: Path, budget: Callable[[float], RunRequest]) -> AbstractAsyncContextManager[AppBench]:
    """Start the app as for a first run, with a countdown that does not end."""
    probes = fake_probes(budget=budget)
    return running_app(folder, countdown_s=LONG_S, first_minutes=5, probes=probes, size=(120, 40))


@pytest.mark.slow
@pytest.mark.essential
async def test_a_first_start_trains_for_five_minutes_with_what_follows_from_them(tmp_path: Path) -> None:
    async with first_start(tmp_path, budget_run) as bench:
        await bench.until(lambda: bool(re.search(r"on train.en for 5 minutes starts in \d{3} s", bench.text())))
        assert "because 5 minutes are enough" in bench.text()
        assert "Train for 30 minutes (again: 8 hours, 1 minute)" in bench.text()
        await bench.pilot.press("enter")
        await bench.until_step(5)
        request = bench.opener.requests[0]
        assert (request.settings.minutes, request.settings.layers) == (5, 2)
        assert request.settings.models_dir == str(tmp_path)
        assert request.model_reason == "because 5 minutes are enough"


@pytest.mark.slow
async def test_the_run_that_follows_a_stored_one_has_the_same_time_budget_and_no_countdown(tmp_path: Path) -> None:
    saved_model(tmp_path, "latest", 100, seed=1)
    async with first_start(tmp_path, budget_run) as bench:
        await bench.until_seen("because 5 minutes are enough")
        await bench.until_seen("Resume (step 100")
        assert "starts in" not in bench.text()
        assert "Train for 30 minutes (again: 8 hours, 1 minute)" in bench.text()
        await bench.pilot.press("s")
        await bench.until_step(5)
        assert bench.opener.requests[0].settings.minutes == 5


@pytest.mark.slow
async def test_a_start_during_the_measurement_waits_for_what_is_chosen(tmp_path: Path) -> None:
    measured = threading.Event()

    async with first_start(tmp_path, when(measured)) as bench:
        await bench.until_seen("timing a few steps")
        await bench.pilot.press("s")
        await bench.until_seen("The run starts after that (Esc: cancel).")
        assert not bench.opener.requests
        measured.set()
        await bench.until_step(5)
        assert bench.opener.requests[0].model_reason == "because 5 minutes are enough"


@pytest.mark.slow
async def test_the_run_that_the_key_resumes_is_named_during_the_measurement(tmp_path: Path) -> None:
    saved_model(tmp_path, "latest", 100, seed=1)
    measured = threading.Event()

    async with first_start(tmp_path, when(measured)) as bench:
        await bench.until_seen("timing a few steps")
        assert re.search(r" r +Resume \(step 100, saved .* ago\)", bench.text())
        await bench.pilot.press("s")
        await bench.until_seen("The run starts after that (Esc: cancel).")
        assert "Resume (step 100" in bench.text()
        await bench.pilot.press("r")
        await bench.until_step(101)
        assert [request.resume for request in bench.opener.requests] == ["newest"]
        measured.set()
        await bench.pilot.press("x")
        await bench.until(lambda: not bench.app.controller.alive)
        await bench.pilot.pause()
        assert len(bench.opener.requests) == 1


@pytest.mark.slow
async def test_the_measurement_is_shown_until_it_ends(tmp_path: Path) -> None:
    measured = threading.Event()

    async with first_start(tmp_path, when(measured)) as bench:
        await bench.until_seen("timing a few steps")
        saved_model(tmp_path, "latest", 100, seed=1)
        bench.app.main.train.read_preview()
        await bench.until_seen("Resume (step 100")
        assert "timing a few steps" in bench.text()
        measured.set()
        await bench.until_seen("because 5 minutes are enough")


@pytest.mark.slow
async def test_escape_cancels_a_start_during_the_measurement(tmp_path: Path) -> None:
    measured = threading.Event()

    async with first_start(tmp_path, when(measured)) as bench:
        await bench.until_seen("timing a few steps")
        await bench.pilot.press("s")
        await bench.until_seen("The run starts after that (Esc: cancel).")
        await bench.pilot.press("escape")
        await bench.until(lambda: "The run starts after that" not in bench.text())
        measured.set()
        await bench.until_seen("because 5 minutes are enough")
        await bench.pilot.pause()
        assert not bench.opener.requests


@pytest.mark.slow
async def test_what_was_typed_during_the_measurement_is_not_replaced(tmp_path: Path) -> None:
    measured = threading.Event()
    measuring: list[threading.Thread] = []

    def measure(minutes: float) -> RunRequest:
        measuring.append(threading.current_thread())
        measured.wait(LONG_S)
        return budget_run(minutes)

    async with first_start(tmp_path, measure) as bench:
        await bench.until_seen("timing a few steps")
        await bench.pilot.press("s", "u")
        await bench.until_seen("Set up a run")
        bench.app.screen.query_one("#setting-layers", Input).value = "3"
        await bench.pilot.pause()
        await bench.pilot.press("escape")
        await bench.until_seen("layers 3")
        measured.set()
        await bench.until(lambda: not measuring[0].is_alive())
        await bench.pilot.pause()
        assert bench.app.main.train.settings.layers == 3
        assert not bench.opener.requests


@pytest.mark.slow
async def test_the_key_chooses_another_time_and_cancels_the_countdown(tmp_path: Path) -> None:
    async with first_start(tmp_path, budget_run) as bench:
        await bench.until_seen("starts in")
        await bench.pilot.press("f")
        await bench.until_seen("because 30 minutes are enough")
        assert "starts in" not in bench.text()
        assert "Train for 8 hours (again: 1 minute, 5 minutes)" in bench.text()
        await bench.pilot.press("s")
        await bench.until_step(5)
        assert (bench.opener.requests[0].settings.minutes, bench.opener.requests[0].settings.layers) == (30, 6)


@pytest.mark.slow
async def test_the_key_chooses_another_time_while_the_speed_is_measured(tmp_path: Path) -> None:
    measured, ended = threading.Event(), []

    def measure(minutes: float) -> RunRequest:
        if minutes < 480:
            measured.wait(LONG_S)
        ended.append(minutes)
        return budget_run(minutes)

    async with first_start(tmp_path, measure) as bench:
        await bench.until_seen("Train for 5 minutes")
        await bench.pilot.press("f")
        await bench.until_seen("Train for 30 minutes")
        await bench.pilot.press("f")
        await bench.until_seen("because 480 minutes are enough")
        measured.set()
        await bench.until(lambda: len(ended) == 3)
        await bench.pilot.pause()
        assert "because 480 minutes are enough" in bench.text()
        assert not list(bench.app._notifications)


@pytest.mark.slow
async def test_leaving_the_set_up_screen_unchanged_during_the_measurement_keeps_the_time_budget(tmp_path: Path) -> None:
    measured = threading.Event()

    async with first_start(tmp_path, when(measured)) as bench:
        await bench.until_seen("timing a few steps")
        await bench.pilot.press("u")
        await bench.until_seen("Set up a run")
        measured.set()
        await bench.until(lambda: bench.app.main.train.settings.minutes == 5)
        await bench.pilot.press("escape")
        await bench.until_seen("because 5 minutes are enough")
        assert "Go back to the settings before the changes" not in bench.text()


@pytest.mark.slow
async def test_a_failed_measurement_starts_with_the_settings_as_they_are(tmp_path: Path) -> None:
    def fail(_minutes: float) -> RunRequest:
        raise CorpusError("no text")

    async with first_start(tmp_path, fail) as bench:
        await bench.until(lambda: bool(re.search(r"training nano on train.en starts in \d{3} s", bench.text())))
        assert [notice.message for notice in bench.app._notifications] == ["time not chosen: no text"]


@pytest.mark.slow
async def test_a_measurement_in_progress_does_not_delay_the_exit(tmp_path: Path) -> None:
    ended = threading.Event()
    measuring: list[threading.Thread] = []

    def measure(minutes: float) -> RunRequest:
        measuring.append(threading.current_thread())
        ended.wait(LONG_S)
        return budget_run(minutes)

    async with first_start(tmp_path, measure) as bench:
        await bench.until(lambda: bool(measuring))
        await bench.pilot.press("ctrl+c")
    assert not ended.is_set()
    assert [thread.daemon for thread in measuring] == [True]  # the process does not wait for it either
    ended.set()


@pytest.mark.slow
async def test_changed_settings_are_not_replaced_by_the_key(tmp_path: Path) -> None:
    async with running_app(tmp_path, probes=fake_probes(budget=budget_run), size=(120, 40)) as bench:
        await bench.until_seen("Train for 1 minute")
        train = bench.app.main.train
        train._next.settings = msgspec.structs.replace(train.settings, layers=3)
        train.read_preview()
        await bench.until_seen("layers 3")
        assert "Train for 1 minute" not in bench.text()
        before = train.settings
        await bench.pilot.press("f")
        await bench.until(lambda: bool(list(bench.app._notifications)))
        assert [notice.message for notice in bench.app._notifications] == ["the time is chosen in the set-up screen"]
        assert train.settings == before
