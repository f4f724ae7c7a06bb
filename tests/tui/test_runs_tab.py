"""Runs tab: listing, replaying, following and comparing runs, and when logs are read."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from textual.app import App, ComposeResult
from textual.widgets import Input

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import GROUP_RATES
from gpt_core.training.events import RunContinued, RunFinished, RunPaused
from gpt_tui.app.app import GptApp
from gpt_tui.session.run_finder import RunInfo, RunReader, RunStatus
from gpt_tui.tabs.runs.compare_charts import CompareCharts, OverlayLegend
from gpt_tui.tabs.runs.pane import FIND_EVERY, RunsTab
from gpt_tui.tabs.runs.run_detail import RunDetail
from gpt_tui.tabs.runs.runs_table import RunsTable
from tests.tui.app_bench import AppBench, running_app
from tests.tui.conftest import PassHours, Snapshot
from tests.tui.log_samples import LOG, lines, run_events, write_log
from tests.tui.samples import scored, started, step
from tests.tui.stored_files import SMALL, save

pytestmark = pytest.mark.slow

MODELS = Path("models")
SIZES = [(80, 24), (120, 40)]
HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in its own working folder, so that names are short and the same everywhere."""
    monkeypatch.chdir(tmp_path)


def three_runs() -> None:
    write_log(MODELS, run_events(600), age_s=2.5 * HOUR_S)
    write_log(Path("trials/fast"), run_events(400, seed=1, rate=40.0, end="stopped"), age_s=5.5 * HOUR_S)
    write_log(Path("trials/slow"), run_events(500, seed=2, rate=250.0, end=""), age_s=50 * HOUR_S)


async def go_there(bench: AppBench, text: str) -> None:
    await bench.pilot.press("f5")
    await bench.until_seen(text)


def pane(bench: AppBench) -> RunsTab:
    return bench.app.main.query_one(RunsTab)


# -- one run


async def test_without_a_run_the_tab_names_the_next_step() -> None:
    async with running_app(MODELS) as bench:
        await go_there(bench, "No runs yet.")
        for text in ("F2, then s, starts a run here.", "gpt-tui --train-only --models-dir models/other"):
            assert text in bench.text()
        await bench.pilot.press("space", "m", "u", "v", "l", "left")


async def test_runs_that_are_still_being_read_are_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with CheckpointStore(MODELS) as store:
        store.prepare("run", new_run=True)
        write_log(MODELS, run_events(30, end=""))
        for held, words in (("find", "looking for runs…"), ("read", "reading the log of models…")):
            go_on, real = threading.Event(), getattr(RunReader, held)
            with monkeypatch.context() as patch:
                patch.setattr(RunReader, held, lambda *values, go_on=go_on, real=real: go_on.wait(60) and real(*values))
                async with running_app(MODELS, size=(120, 40)) as bench:
                    await go_there(bench, words)
                    assert "No runs yet" not in bench.text()
                    assert "after the first step" not in bench.text()
                    go_on.set()
                    await bench.until_seen("train loss 5.")


@pytest.mark.essential
async def test_a_finished_run_is_replayed_from_its_log() -> None:
    write_log(MODELS, run_events(600), age_s=2.5 * HOUR_S)
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "all steps done")
        for text in ("✓ finished", "600 of 600", "⠒⠒ train loss", "★ best", "2 h ago", "nano 1.07M"):
            assert text in bench.text()


async def test_the_age_of_a_finished_run_grows(hours_pass: PassHours) -> None:
    write_log(MODELS, run_events(600), age_s=2.5 * HOUR_S)
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "2 h ago")
        hours_pass(3)
        await bench.until_seen("5 h ago")


async def test_a_cell_that_is_too_long_ends_with_an_ellipsis() -> None:
    write_log(MODELS, [started(train_file="a-text-with-a-long-name.txt"), *run_events(20)[1:]])
    async with running_app(MODELS, size=(220, 40)) as bench:
        await go_there(bench, "a-text-with-a-l…")


async def test_the_run_under_the_cursor_is_shown() -> None:
    three_runs()
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "600 of 600")
        await bench.pilot.press("down", "down")
        await bench.until_seen("500 of 500")
        assert "crashed or" in bench.text()


async def test_the_chart_keys_work_while_the_list_has_the_focus() -> None:
    write_log(MODELS, run_events(600))
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "600 of 600")
        await bench.pilot.press("l", "plus", "left")
        charts = pane(bench).charts
        assert charts is not None
        assert charts.view.log
        assert charts.view.span == 0.5
        assert charts.view.end is not None
        assert isinstance(bench.app.focused, RunsTable)


async def test_a_key_switches_between_samples_log_and_neither() -> None:
    write_log(MODELS, run_events(600))
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "It was the 600 cats that sat")
        await bench.pilot.press("v")
        await bench.until_seen("step 600: all steps done")
        assert "cats that sat" not in bench.text()
        await bench.pilot.press("v")
        await bench.until(lambda: "step 600: all steps" not in bench.text())
        await bench.pilot.press("v")
        await bench.until_seen("It was the 600 cats that sat")


async def test_pointing_at_the_chart_shows_the_sample_of_that_step() -> None:
    write_log(MODELS, run_events(600))
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "It was the 600 cats that sat")
        await bench.pilot.hover("#runs-charts", offset=(22, 5))
        await bench.until_seen("It was the 100 cats that sat")


async def test_another_run_under_a_cursor_of_the_chart_has_its_sample_of_that_step() -> None:
    write_log(MODELS, run_events(600), age_s=HOUR_S)
    write_log(Path("second"), run_events(600, seed=1), age_s=2 * HOUR_S)

    def shown_step() -> int:
        sample = pane(bench).query_one(RunDetail).current_sample
        return sample.step if sample is not None else -1

    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "It was the 600 cats that sat")
        await bench.pilot.press(*["comma"] * 6)
        await bench.until(lambda: 0 < shown_step() < 600)
        step = shown_step()
        await bench.pilot.press("down")
        await bench.until(lambda: pane(bench).query_one(RunsTable).selected.folder == Path("second"))
        await bench.until_seen("seed          1 ")
        await bench.until(lambda: shown_step() == step)


async def test_runs_of_a_folder_that_is_chosen_in_the_app_are_listed_beside_the_others(tmp_path: Path) -> None:
    write_log(MODELS, run_events(600), age_s=HOUR_S)
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")  # not below the working folder
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "600 of 600")
        await bench.pilot.press("f2", "u")
        screen = await bench.until_set_up()
        screen.query_one("#setting-models_dir", Input).value = str(outside)
        await bench.pilot.press("ctrl+t")
        await bench.until_step(1)
        write_log(outside, run_events(400, seed=1))
        await bench.pilot.press("f5")
        await bench.until(lambda: len(pane(bench)._runs) == 2)
        assert {os.path.realpath(folder) for folder in pane(bench)._runs} == {str(outside), str(tmp_path / "models")}


# -- several runs


async def test_marked_runs_are_compared_until_they_are_unmarked() -> None:
    three_runs()
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "600 of 600")
        await bench.pilot.press("space")
        await bench.until_seen("mark another to compare")
        await bench.pilot.press("down", "space")
        await bench.until_seen("loss at the end")
        for text in ("1 ⠒⠒ models", "2 ⠒⠒ trials/fast", "2 marked"):
            assert text in bench.text()
        await bench.pilot.press("space")
        await bench.until_seen("400 of 400")
        await bench.pilot.press("space", "u")
        await bench.until(lambda: "marked" not in bench.text())


async def test_a_key_switches_the_metric() -> None:
    three_runs()
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "600 of 600")
        await bench.pilot.press("space", "down", "space")
        await bench.until_seen("train loss (smoothed)")
        await bench.pilot.press("m")
        await bench.until_seen("perplexity (smoothed)")
        await bench.pilot.press("m")
        await bench.until_seen("eval bits per byte")


async def test_the_legend_shows_every_runs_value_at_the_cursor() -> None:
    three_runs()
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "600 of 600")
        await bench.pilot.press("space", "down", "space")
        await bench.until_seen("loss at the end")
        await bench.pilot.hover(CompareCharts, offset=(60, 10))
        await bench.until(lambda: "loss at step" in str(bench.app.main.query_one(OverlayLegend).border_title))


async def test_the_number_of_marked_runs_is_limited() -> None:
    for number in range(10):
        write_log(Path(f"runs/{number}"), run_events(20, seed=number), age_s=number * HOUR_S)
    async with running_app(MODELS, size=(120, 40)) as bench:
        await go_there(bench, "20 of 20")
        for _ in range(9):
            await bench.pilot.press("space", "down")
        await bench.until_seen("8 marked")
        assert any("which is the maximum" in notice.message for notice in bench.app._notifications)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_settings_of_four_runs_are_shown_or_end_with_an_ellipsis(size: tuple[int, int]) -> None:
    changed = {"batch_size": 8, "dropout": 0.1, "hidden_size": 16, "weight_decay": 0.2, "epsilon": 0.1}
    changed |= dict.fromkeys(GROUP_RATES, 0.004) | {"max_epochs": 7, "patience": 5, "val_frac": 0.25}
    for number in range(1, 5):
        folder = Path(f"trials/{number}")
        write_log(folder, run_events(60, seed=number), age_s=number * HOUR_S)
        settings = msgspec.structs.replace(SMALL, seed=number, **(changed if number % 2 else {}))
        save(folder / "ckpt_latest.safetensors", 0, settings=settings)
    async with running_app(MODELS, size=size) as bench:
        await go_there(bench, "60 of 60")
        for _ in range(4):
            await bench.pilot.press("space", "down")
        legend = bench.app.main.query_one(OverlayLegend)
        await bench.until(lambda: len(legend.runs) == 4 and all(run.state.step == 60 for run in legend.runs))
        rows = [line.rstrip() for line in legend.render().plain.split("\n")]
        assert sum("⠒⠒" in row for row in rows) == 4
        ends = [row for row, after in zip(rows, [*rows[1:], "1 ⠒⠒"], strict=True) if "⠒⠒" in after]
        complete = tuple(line.split()[-1] for detail in legend.details for line in detail.split("\n"))
        assert all(row.endswith((*complete, "…")) for row in ends), rows
        assert size[0] != 120 or all(row.endswith("…") for row in ends), rows


# -- live


async def test_the_run_of_this_app_is_named_so_and_followed_to_its_end() -> None:
    with CheckpointStore(MODELS) as store:
        store.prepare("run", new_run=True)
        path = write_log(MODELS, [started(), *(step(number) for number in range(1, 30))])
        async with running_app(MODELS, size=(120, 40)) as bench:
            await go_there(bench, "▶ this app")
            await bench.until_seen("▶ live")
            assert "this app" in bench.text()
            with path.open("ab") as log:
                log.write(lines(step(30), scored(30, 0.3), step(31)))
            await bench.until_seen("31 of 2,000")
            with path.open("ab") as log:
                log.write(lines(RunFinished("epsilon", 31)))
            await bench.until_seen("mean step loss")
            await bench.until_seen("✓ finished")


async def test_a_run_is_shown_as_paused_until_it_continues() -> None:
    with CheckpointStore(MODELS) as store:
        store.prepare("run", new_run=True)
        path = write_log(MODELS, [started(), *(step(number) for number in range(1, 30)), RunPaused(29)])
        async with running_app(MODELS, size=(120, 40)) as bench:
            await go_there(bench, "process       this app")
            await bench.until(lambda: bench.text().count("‖ paused") == 2)  # row and panel
            assert "live" not in bench.text()
            with path.open("ab") as log:
                log.write(lines(RunContinued(29)))
            await bench.until_seen("▶ live")
            assert "‖ paused" not in bench.text()
            assert "▶ this app" in bench.text()


async def test_a_killed_run_is_shown_as_crashed() -> None:
    with CheckpointStore(MODELS) as store:
        store.prepare("run", new_run=True)
        write_log(MODELS, run_events(30, end=""))
        async with running_app(MODELS, size=(120, 40)) as bench:
            await go_there(bench, "▶ live")
            store.close()
            await bench.until_seen("✗ crashed")


async def test_logs_are_read_only_while_the_tab_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    polls_by_hand(monkeypatch)
    write_log(MODELS, run_events(30))
    async with running_app(MODELS) as bench:
        assert await reads_in_polls(bench, 8) == 0
        await go_there(bench, "30 of 30")
        await bench.settled()
        assert await reads_in_polls(bench, 8) == 8 / FIND_EVERY
        await bench.pilot.press("f2")
        await bench.settled()
        assert await reads_in_polls(bench, 8) == 0


@pytest.mark.parametrize(("steps", "reads"), [(30, 8), (1999, 8), (2100, 8 / FIND_EVERY)])
async def test_the_log_of_a_live_run_is_read_as_often_as_its_charts_show_another_dot(
    steps: int, reads: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 0.1 seconds, and a chart has 200 dots: one per second after 2,000 steps."""
    polls_by_hand(monkeypatch)
    with CheckpointStore(MODELS) as store:
        store.prepare("run", new_run=True)
        write_log(MODELS, [started(max_steps=5000), *(step(number) for number in range(1, steps + 1))])
        async with running_app(MODELS, size=(120, 40)) as bench:
            await go_there(bench, f"{steps:,} of 5,000")
            await bench.settled()
            assert await reads_in_polls(bench, 8) == reads


def polls_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tab poll only when it is entered and in `reads_in_polls`."""
    monkeypatch.setattr(RunsTab, "set_interval", lambda *_: None)


async def reads_in_polls(bench: AppBench, polls: int) -> int:
    """Return how often logs are read in a number of polls."""
    reader, reads = pane(bench)._reader, 0

    def read(selected: Sequence[RunInfo]) -> bool:
        nonlocal reads
        reads += 1
        return RunReader.read(reader, selected)

    reader.read = read  # type: ignore[method-assign]
    for _ in range(polls):
        pane(bench)._poll()
        await bench.settled()
    return reads


async def test_a_watched_folder_is_waited_for_and_no_run_is_started(tmp_path: Path) -> None:
    MODELS.mkdir()
    async with running_app(MODELS, size=(80, 24), watched=MODELS) as bench:
        await bench.until_seen("Waiting for a run in models")
        assert "metrics.jsonl" in bench.text()
        write_log(MODELS, run_events(40))
        await bench.until_seen("40 of 40")
        assert bench.opener.requests == []
        assert sorted(os.listdir(MODELS)) == [LOG]
        await bench.pilot.press("q")
    assert bench.app.return_code == 0


# -- snapshots


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_no_run_looks_as_in_the_snapshot(size: tuple[int, int], snapshot: Snapshot) -> None:
    async with running_app(MODELS, size=size) as bench:
        await go_there(bench, "No runs yet.")
        await bench.settled()
        snapshot(bench.app, f"runs-none-{size[0]}x{size[1]}")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_one_run_looks_as_in_the_snapshot(size: tuple[int, int], snapshot: Snapshot) -> None:
    three_runs()
    async with running_app(MODELS, size=size) as bench:
        await go_there(bench, "600 of 600")
        await bench.settled()
        snapshot(bench.app, f"runs-one-{size[0]}x{size[1]}")


@pytest.mark.parametrize("theme", ["gpt-night", "gpt-day"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_three_runs_look_as_in_the_snapshot(size: tuple[int, int], theme: str, snapshot: Snapshot) -> None:
    three_runs()
    async with running_app(MODELS, size=size) as bench:
        await set_theme(bench.app, bench, theme)
        await go_there(bench, "600 of 600")
        await bench.pilot.press("space", "down", "space", "down", "space")
        await bench.until(lambda: sum("⠒⠒" in line for line in bench.text().splitlines()) >= 3)
        await bench.until(lambda: all(run.state.step for run in bench.app.main.query_one(CompareCharts)._runs))
        await bench.settled()
        snapshot(bench.app, f"runs-three-{size[0]}x{size[1]}" + ("-light" if theme != "gpt-night" else ""))


async def set_theme(app: GptApp, bench: AppBench, theme: str) -> None:
    app.theme = theme
    await bench.pilot.pause()


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (79, 10), (300, 100)])
async def test_extreme_terminal_sizes_are_survived(size: tuple[int, int]) -> None:
    three_runs()
    async with running_app(MODELS, size=size) as bench:
        await bench.pilot.press("f5")
        await bench.settled()
        await bench.pilot.press("space", "down", "space", "m", "m", "left", "plus")
        await bench.pilot.resize_terminal(80, 24)
        await bench.until_seen("trials/slow")


async def test_runs_found_while_the_table_is_hidden_are_its_rows_when_it_is_shown() -> None:
    class TableApp(App[None]):
        def compose(self) -> ComposeResult:
            yield RunsTable(id="runs-table")

    app = TableApp()
    async with app.run_test(size=(120, 40)) as pilot:
        table = app.query_one(RunsTable)
        table.show([RunInfo(MODELS, RunStatus.WAITING)], {}, 0.0)
        table.show([], {}, 0.0)
        table.display = False
        await pilot.pause()
        table.show([RunInfo(MODELS, RunStatus.WAITING), RunInfo(MODELS / "b", RunStatus.WAITING)], {}, 0.0)
        table.display = True
        await pilot.pause()
        await pilot.pause()
        assert (table.row_count, table.size.width > 0) == (2, True)
