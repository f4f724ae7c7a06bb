"""Welcome view: estimate, recent runs, newest sample, explanation, and what of it fits."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Input, Static

from gpt_core.bench.estimate import StepTime
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.run_files import METRICS
from gpt_core.training.events import SampleWritten, to_json
from gpt_tui.new_run.estimate import RunEstimate
from gpt_tui.session.log_reader import BestEvaluation
from gpt_tui.session.phase import Phase
from gpt_tui.session.recent_runs import RecentRuns, newest_sample, read_recent_runs
from gpt_tui.session.run_finder import RunInfo, RunStatus
from gpt_tui.session.run_preview import RunPreview
from gpt_tui.tabs.train.presenter import preview_rows
from gpt_tui.tabs.train.welcome import Welcome
from gpt_tui.tabs.train.welcome_text import fitted_rows, runs_panel, sample_panel, with_estimate
from tests.tui.app_bench import running_app
from tests.tui.fake_probes import FREE_BYTES, fake_probes, fake_texts, fake_time
from tests.tui.samples import started, step

SETTINGS = preset("nano")
ROWS = preview_rows(RunPreview(SETTINGS, "nano", "data/raw/train.en", 3_600_000), {})
KEYS = {"chat": "F3", "stop": "x"}


def estimate(**changes: object) -> RunEstimate:
    known = RunEstimate(SETTINGS, 2, FREE_BYTES, fake_texts(SETTINGS), "", fake_time(SETTINGS, lambda: False), "")
    return known._replace(**changes)


def test_the_estimate_names_the_time_on_this_computer_and_the_memory_of_the_whole_run():
    rows = dict(with_estimate(ROWS, estimate()))
    assert rows["time"].startswith("up to ")
    assert "on this computer" in rows["time"]
    assert rows["time"].endswith(" ms per step")
    assert rows["memory"].endswith("4.0 GB free")
    assert [label for label, _ in with_estimate(ROWS, RunEstimate())] == [label for label, _ in ROWS]


def test_an_estimate_says_what_is_not_known_yet():
    assert dict(with_estimate(ROWS, estimate(time=None, time_problem="timing a few steps …")))["time"] == (
        "timing a few steps …"
    )
    assert dict(with_estimate(ROWS, estimate(texts=None)))["time"].endswith(" ms per step on this computer")


def test_rows_of_less_importance_are_left_out_of_a_low_terminal():
    rows = with_estimate(ROWS, estimate())
    assert fitted_rows(rows, 200, len(rows)) == [(label, [text]) for label, text in rows]
    assert [label for label, _ in fitted_rows(rows, 200, 4)] == ["model", "text", "time", "saves"]


@pytest.mark.parametrize("height", range(4, 30))
def test_rows_that_wrap_fit_too(height: int):
    rows = [*with_estimate(ROWS, estimate()), ("why", "because " * 50)]
    fitting = fitted_rows(rows, 60, height)
    lines = [line for _, lines in fitting for line in lines]
    assert len(lines) <= height
    assert all(len(line) <= 60 for line in lines)
    assert {label for label, _ in fitting} >= {"model", "text", "time", "saves"}


def test_a_row_without_room_for_its_lines_is_cut():
    rows = [("model", "a " * 50), ("text", "b"), ("problem", "c " * 20)]
    assert fitted_rows(rows, 20, 2) == [
        ("model", ["a a a a a a a a a …"]), ("text", ["b"]), ("problem", ["c c c c c c c c c c"] * 2),
    ]  # fmt: skip


def test_recent_runs_are_listed_with_aligned_columns_at_any_width():
    scores = BestEvaluation(bits_per_byte=2.345)
    runs = (
        RunInfo(Path("models"), RunStatus.FINISHED, started(), 12_000, 3.1, scores, updated_at=100.0),
        RunInfo(Path("a/rather/long/name/of/a/folder/models-2"), RunStatus.LIVE, pid=7),
    )
    panel = runs_panel(RecentRuns(runs), KEYS, 160.0, 70)
    assert panel.title == "recent runs"
    (_, _), (first, tone), (second, live) = panel.lines
    assert first.startswith("models ")
    assert first.endswith("1 min ago")
    assert "12,000" in first
    assert "2.345" in first
    assert second.startswith("…")
    assert (tone, live) == ("plain", "good")
    assert len({len(text) for text, _ in panel.lines}) == 1
    assert math.isinf(runs[1].best.bits_per_byte)
    assert " – " in second
    wide = runs_panel(RecentRuns((runs[0]._replace(folder=Path("模型/一")),)), KEYS, 160.0, 70)
    assert len({cell_len(text) for text, _ in wide.lines}) == 1
    part = runs_panel(RecentRuns((runs[0]._replace(best=scores._replace(part_tokens=100)),)), KEYS, 160.0, 70)
    assert "~2.345" in part.lines[1][0]
    assert part.lines[2] == ("~: of a part of the eval text", "dim")


def test_without_runs_the_panel_explains_what_will_be_seen_with_the_keys():
    panel = runs_panel(RecentRuns(), KEYS, 0.0, 70)
    assert panel.title == "what you will see"
    text = " ".join(line for line, _ in panel.lines)
    assert "F3  chat" in text
    assert "x  stop" in text
    assert "{" not in text


def test_the_newest_sample_comes_from_the_end_of_a_log(tmp_path: Path):
    log = tmp_path / "run" / METRICS
    log.parent.mkdir()
    samples = [SampleWritten(number, "It was", f" text {number}\x1b[31m") for number in (1, 2)]
    events = [started(), samples[0], *(step(n) for n in range(1, 30)), samples[1], step(30)]
    log.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    assert newest_sample(log) == samples[1]
    assert newest_sample(tmp_path / "nowhere") is None
    recent = read_recent_runs(str(tmp_path), tmp_path)
    assert [run.step for run in recent.runs] == [30]
    panel = sample_panel(recent)
    assert panel is not None
    assert panel.lines[1][0].startswith("It was text 2")
    assert "\x1b" not in panel.lines[1][0]
    assert sample_panel(RecentRuns()) is None


@pytest.mark.slow
@pytest.mark.parametrize(("size", "panels"), [((80, 24), 0), ((120, 40), 1), ((160, 50), 1), ((200, 60), 2)])
async def test_a_larger_terminal_shows_more_and_cuts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], panels: int
):
    monkeypatch.chdir(tmp_path)
    async with running_app(Path("models"), size=size, countdown_s=600.0) as bench:
        await bench.until_seen("on this computer")
        await bench.until_seen("Esc: cancel)") if size[0] < 160 else await bench.until_seen("cancel)")
        text = bench.text()
        assert "Start training the nano preset on train.en" in text
        assert ("─ keys ─" in text, "─ what you will see ─" in text or "─ recent runs ─" in text) == (
            panels > 1, panels > 0
        )  # fmt: skip
        view = bench.app.main.query_one(Welcome)
        for widget in view.query("Static"):
            if widget.region.area:
                assert view.region.contains_region(widget.region), widget.id
        assert bench.app.main.query_one("#controls").region.area


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["escape", "invalid"])
async def test_a_measurement_that_the_set_up_screen_interrupts_is_made_after_it(tmp_path: Path, leave: str):
    measured: list[Settings] = []

    def timed(settings: Settings, stopped: Callable[[], bool]) -> StepTime | None:
        measured.append(settings)
        while len(measured) == 1 and not stopped():
            time.sleep(0.01)
        return None if stopped() else fake_time(settings, stopped)

    async with running_app(tmp_path, probes=fake_probes(time=timed)) as bench:
        await bench.until(lambda: bool(measured))
        await bench.until_seen("timing a few steps")
        await bench.pilot.press("u")
        await bench.until_set_up()
        if leave == "invalid":
            bench.app.screen.query_one("#setting-layers", Input).value = "-1"
            await bench.until_seen("invalid field")
        await bench.pilot.press("escape")
        await bench.until_seen("on this computer")


@pytest.mark.slow
async def test_nothing_is_measured_during_or_after_a_run(tmp_path: Path):
    measured: list[Settings] = []

    def timed(settings: Settings, stopped: Callable[[], bool]) -> StepTime:
        measured.append(settings)
        return fake_time(settings, stopped)

    async with running_app(tmp_path, probes=fake_probes(time=timed)) as bench:
        await bench.until_seen("on this computer")
        assert len(measured) == 1
        await bench.pilot.press("s")
        await bench.until_step(3)
        train = bench.app.main.train
        for stop in (False, True):
            if stop:
                await bench.pilot.press("x")
                await bench.until_phase(Phase.STOPPED)
            train._next.settings = msgspec.structs.replace(train.settings, layers=6 + stop)
            train.read_preview()
            await bench.until(lambda stop=stop: train.preview.settings.layers == 6 + stop)  # type: ignore[misc]
            await bench.settled()
        assert len(measured) == 1


@pytest.mark.slow
async def test_the_estimate_follows_the_configured_settings(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await bench.until_seen("on this computer")
        view = bench.app.main.query_one(Welcome)
        larger = msgspec.structs.replace(bench.app.main.train.settings, layers=8)
        before = view._prober.estimate.time
        view.show_preview(view._preview._replace(settings=larger), {"layers": "8"}, view._available)  # type: ignore[union-attr]
        await bench.until(lambda: view._prober.estimate.time not in (None, before))
        assert view._prober.estimate.settings == larger


async def test_the_text_has_its_height_after_a_resize(tmp_path: Path):
    async with running_app(tmp_path, size=(60, 18)) as bench:
        await bench.settled()
        await bench.resize(160, 50)
        await bench.until_seen("Show all keys")
        text = bench.app.main.query_one("#welcome-text", Static)
        assert isinstance(text.content, Content)
        assert text.size.height == len(text.content.plain.splitlines())
