"""Duplicating a run with changes: from the Runs tab over the set-up screen to the comparison of both runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gpt_core.checkpoints.folders import next_free_folder
from gpt_core.config.settings import GROUP_RATES
from gpt_tui.new_run.screen import SetupScreen
from gpt_tui.tabs.runs.compare_charts import OverlayLegend
from gpt_tui.tabs.runs.pane import RunsTab
from gpt_tui.tabs.train import run_requests
from tests.tui.app_bench import DEADLINE_S, AppBench, running_app
from tests.tui.fake_probes import fake_probes
from tests.tui.log_samples import run_events, write_log
from tests.tui.stored_files import save

MODELS = Path("models")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def set_up_copy(bench: AppBench) -> None:
    await bench.pilot.press("f5")
    await bench.until_seen("600 of 600")
    await bench.pilot.press("d")
    await bench.until_set_up()


@pytest.mark.slow
async def test_comparing_two_rates_takes_under_ten_key_presses() -> None:
    write_log(MODELS, run_events(600), age_s=3600)
    save(MODELS / "ckpt_latest.safetensors", 65, step=600)
    typed = ["1", "e", "-", "3", "ctrl+t"]
    async with running_app(MODELS, size=(120, 40)) as bench:
        await set_up_copy(bench)
        await bench.pilot.press(*typed)
        await bench.until_step(1)
        settings = bench.opener.requests[0].settings
        assert [getattr(settings, group) for group in GROUP_RATES] == [1e-3] * 5
        assert (settings.models_dir, settings.layers) == ("models-2", 2)
        write_log(Path("models-2"), run_events(300, seed=1))
        await bench.pilot.press("f5")
        await bench.until(lambda: bool(bench.app.main.query_one(OverlayLegend).size.width))
        await bench.until_seen("models-2")
        assert len(bench.app.main.query_one(RunsTab)._marks) == 2
    assert len(["f5", "d", *typed, "f5"]) < 10


@pytest.mark.slow
async def test_with_several_ranks_each_has_a_micro_batch_of_a_copied_run() -> None:
    write_log(MODELS, run_events(600), age_s=3600)
    save(MODELS / "ckpt_latest.safetensors", 65, step=600)
    async with running_app(MODELS, size=(120, 40), probes=fake_probes(hosts=("a", "b", "c", "d"))) as bench:
        await set_up_copy(bench)
        await bench.pilot.press("f9")
        await bench.until_step(1)
        assert bench.opener.requests[0].settings.micro_batches == 4


@pytest.mark.slow
async def test_the_form_of_a_copy_opens_before_its_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    def find(folder: Path) -> Path:
        assert may_end.wait(DEADLINE_S)
        return next_free_folder(folder)

    monkeypatch.setattr(run_requests, "next_free_folder", find)
    write_log(MODELS, run_events(600), age_s=3600)
    save(MODELS / "ckpt_latest.safetensors", 65, step=600)
    async with running_app(MODELS, size=(80, 24)) as bench:
        await bench.pilot.press("f5")
        await bench.until_seen("600 of 600")
        await bench.pilot.press("d")
        await bench.until_seen("opening …")
        await bench.pilot.press(*"0.01")
        may_end.set()
        screen = await bench.until_set_up()
        await bench.until(lambda: screen.form.texts["learning_rate"] == "0.01")
        assert screen.form.texts["models_dir"] == "models-2"
        await bench.settled()
        assert "0.01" in bench.text()  # the field is scrolled into view


@pytest.mark.slow
async def test_leaving_the_set_up_of_a_copy_changes_nothing() -> None:
    write_log(MODELS, run_events(600), age_s=3600)
    save(MODELS / "ckpt_latest.safetensors", 65, step=600)
    async with running_app(MODELS, size=(120, 40)) as bench:
        before = bench.app.main.train.settings
        await set_up_copy(bench)
        await bench.pilot.press("5", "escape")
        await bench.until(lambda: not isinstance(bench.app.screen, SetupScreen))
        assert bench.app.main.train.settings == before
        assert bench.app.main.tab == "runs"


@pytest.mark.slow
async def test_a_run_without_a_checkpoint_cannot_be_duplicated_and_says_why() -> None:
    write_log(MODELS, run_events(600))
    async with running_app(MODELS, size=(120, 40)) as bench:
        await bench.pilot.press("f5")
        await bench.until_seen("600 of 600")
        await bench.pilot.press("d")
        await bench.until(lambda: any("has no checkpoint" in notice.message for notice in bench.app._notifications))


@pytest.mark.slow
async def test_during_a_run_the_tab_and_the_key_that_stop_it_are_named() -> None:
    write_log(Path("other"), run_events(600))
    save(Path("other") / "ckpt_latest.safetensors", 65, step=600)
    async with running_app(MODELS, size=(120, 40), autostart=True) as bench:
        await bench.until_step(1)
        await bench.pilot.press("f5")
        await bench.until_seen("other")
        await bench.pilot.press("d")
        expected = "a run is in progress (F2, then x: stop)"
        await bench.until(lambda: any(notice.message == expected for notice in bench.app._notifications))
