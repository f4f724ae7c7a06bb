"""Line of figures of a run: what fits, what has priority, and the panel that takes its place."""

from dataclasses import replace
from pathlib import Path

import pytest

from gpt_core.training.events import (
    EvalProgressed,
    FullEvalCompleted,
    LinesReproduced,
    LossDiverged,
    RunFinished,
    SaveFailed,
)
from gpt_tui.charts.chart import Chart
from gpt_tui.run_view.figures import GAP, fitted_figures
from gpt_tui.run_view.figures_line import FiguresLine
from gpt_tui.run_view.status import evaluation_rows
from gpt_tui.run_view.status_panel import StatusPanel
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_events import advance
from gpt_tui.session.run_state import NO_LIMITS, RunState
from tests.tui.app_bench import running_app
from tests.tui.samples import learned, started, trained
from tests.tui.still_app import still_app

TRAINING = SessionStatus(Phase.TRAINING, 70.0, 72_000_000)


def line(run: RunState, width: int, status: SessionStatus = TRAINING) -> str:
    return GAP.join(figure.text for figure in fitted_figures(run, status, width))


def test_step_losses_and_time_left_fit_into_78_cells():
    shown = line(learned(), 78)
    assert shown.startswith("step 650 of 2,000  train loss ")
    assert "  eval loss " in shown
    assert "  time left 2 min 15 s" in shown


def test_a_wide_line_has_all_figures_in_a_fixed_order():
    shown = line(learned(), 200)
    labels = ["step", "train loss", "eval loss", "accuracy", "time left", "tokens/s", "saved"]
    assert sorted(labels, key=shown.index) == labels


@pytest.mark.parametrize("width", range(0, 140, 7))
def test_figures_that_do_not_fit_are_left_out_whole(width):
    shown = line(learned(), width)
    assert len(shown) <= width
    assert all(text in line(learned(), 200) for text in shown.split(GAP))


def test_before_the_first_evaluation_its_step_is_named():
    assert "first eval at 100" in line(trained(40), 78)


def test_a_run_too_short_for_an_evaluation_is_evaluated_at_its_end():
    short_run = replace(trained(40), started=started(max_steps=60))
    assert "eval at the end" in line(short_run, 140)
    assert [row.label for row in evaluation_rows(short_run, 30)] == ["evaluation at the end, step 60"]
    scored_at_end = advance(short_run, FullEvalCompleted(60, 3.5, 33.1, 0.25, 2.0, 9_000))
    ended = advance(scored_at_end, RunFinished("max_steps", 60))
    assert "eval at" not in line(ended, 140)
    assert "eval loss 3.500  accuracy 25.0%" in line(ended, 140)
    rows = {row.label: row.value for row in evaluation_rows(ended, 30)}
    assert (rows["full eval"], rows["accuracy"], rows["bits/byte"]) == ("3.500 at 60", "25.0%", "2.000")
    unscored = advance(short_run, RunFinished("max_steps", 60))
    assert [row.label for row in evaluation_rows(unscored, 30)] == ["no evaluation"]


@pytest.mark.parametrize("max_steps", [2000, 130])
def test_no_step_of_a_first_evaluation_is_named_during_it_and_after_the_run(max_steps: int):
    run = replace(trained(100), started=started(max_steps=max_steps))
    evaluating = advance(run, EvalProgressed(100, 1, 8))
    stopped = advance(evaluating, RunFinished("stopped", 100))
    unknown = replace(stopped, limits=NO_LIMITS)
    labels = [evaluation_rows(state, 30)[0].label for state in (evaluating, stopped, unknown)]
    assert labels == ["no evaluation yet", "no evaluation", "no evaluation"]


def test_no_step_of_an_evaluation_is_named_while_the_settings_are_unknown():
    shown = line(replace(trained(40), limits=NO_LIMITS), 100)
    assert "no evaluation yet" in shown
    assert "at step" not in shown


def test_a_self_test_is_named_and_has_its_verdict_in_place_of_evaluations():
    run = replace(trained(40), started=started(kind="overfit-tiny", max_steps=2_500))
    assert line(run, 80).startswith("self-test step 40 of 2,500  train loss ")
    assert "  check at the end  " in line(run, 140)
    assert "eval" not in line(run, 200)
    checked = advance(run, LinesReproduced(40, 98, 100, True))
    assert "lines reproduced 98 of 100" in line(checked, 80)


def test_a_failed_save_and_a_divergence_are_shown_at_any_width():
    failed = advance(learned(), SaveFailed("latest", "models/ckpt_latest.safetensors", 650, "disk full"))
    assert line(failed, 10).startswith("✗ not saved, see the log")
    diverged = advance(trained(50, lambda n: 30.0), LossDiverged(50, 30.0, 7.6))
    assert "✗ diverging" in line(diverged, 10)


@pytest.mark.slow
async def test_a_terminal_of_80x24_has_one_chart_of_full_width_and_one_line_of_figures(monkeypatch: pytest.MonkeyPatch):
    async with still_app(monkeypatch, learned(), Phase.PAUSED, (80, 24)) as (app, pilot):
        shown = [chart for chart in app.main.query(Chart) if chart.region.area and app.main.train in chart.ancestors]
        assert [chart.region.width for chart in shown] == [80]
        assert app.main.query_one(FiguresLine).region.height == 1
        assert not app.main.query_one(StatusPanel).display
        await pilot.press("i")
        await pilot.pause()
        assert app.main.query_one(StatusPanel).display
        assert not app.main.query_one(FiguresLine).display
        await pilot.press("i")
        await pilot.pause()
        assert app.main.query_one(FiguresLine).region.height == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (80, 50), (120, 24), (120, 40), (200, 60)])
async def test_the_status_key_works_at_every_size_with_every_panel(tmp_path: Path, size: tuple[int, int]):
    async with running_app(tmp_path, size=size, autostart=True) as bench:
        await bench.until_step(5)
        await bench.pilot.press("p")
        await bench.until_phase(Phase.PAUSED)
        for _ in range(3):
            for _ in range(2):
                await bench.pilot.press("i")
                await bench.settled()
                panel, figures = bench.app.main.query_one(StatusPanel), bench.app.main.query_one(FiguresLine)
                assert panel.display != figures.display
                shown = panel if panel.display else figures
                assert bench.app.main.train.region.contains_region(shown.region)
                assert shown.region.area
            await bench.pilot.press("v")
