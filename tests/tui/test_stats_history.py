"""Statistics of heads and weights in the state of a run, in its log, and on its chart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt_core.training import events as ev
from gpt_core.training.metrics import metric as registered
from gpt_tui.charts.export import chart_lines
from gpt_tui.charts.labels import legend
from gpt_tui.charts.raster import CURSOR, INDUCTION, INDUCTION_CHARACTER, column_of, raster
from gpt_tui.charts.series import Range, chart_series
from gpt_tui.headless.event_text import news
from gpt_tui.session.log_reader import LogFollower
from gpt_tui.session.log_replay import replay_log
from gpt_tui.session.run_events import MAX_STATS, advance, advance_all
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.theme import export_colors
from tests.tui.log_samples import write_log
from tests.tui.samples import scored, started, step, trained

APPEARED = ev.InductionHeadAppeared(600, 1, 3, 0.4217)


def heads(number: int, induction: float = 0.02) -> ev.HeadsScored:
    """Return the scores of two layers of two heads."""
    even = ((0.1, 0.1), (0.1, None))
    return ev.HeadsScored(number, even, even, ((0.02, 0.02), (0.02, induction)), even)


def health(number: int, ratio: float | None = -3.0) -> ev.HealthMeasured:
    """Return the health of two tensors."""
    return ev.HealthMeasured(number, ("wte.weight", "wpe.weight"), (1.0, 2.0), (0.5, None), (ratio, ratio), (0.0, 0.25))


def test_statistics_are_arrays_with_their_places_on_the_axes():
    run = advance_all(trained(300), [heads(300, 0.6), health(300)])
    (point,), (measured,) = run.heads, run.health
    assert point.place == measured.place == (300, 300 * 1024, 30.0)
    assert point.scores.shape == (4, 2, 2)
    assert point.scores[2, 1, 1] == np.float32(0.6)
    assert np.isnan(point.scores[0, 1, 1])
    np.testing.assert_array_equal(measured.values, np.array([(1, 2), (0.5, np.nan), (-3, -3)], np.float32))
    assert measured.tensors == ("wte.weight", "wpe.weight")
    assert measured.dead_units.tolist() == [0.0, 0.25]


def test_a_step_that_is_measured_again_has_one_point():
    run = advance_all(trained(300), [heads(300, 0.1), health(300), heads(300, 0.2), health(300, None)])
    assert len(run.heads) == len(run.health) == 1
    assert run.heads[0].scores[2, 1, 1] == np.float32(0.2)


def test_statistics_are_bounded_and_thinned_from_the_older_half():
    run = RunState()
    for number in range(1, 2001):
        run = advance_all(run, [heads(number), health(number)])
    for points in (run.heads, run.health):
        assert len(points) <= MAX_STATS
        steps = [point.place.step for point in points]
        assert steps[0] == 1
        assert steps == sorted(steps)
        assert steps[-60:] == list(range(1941, 2001))


def test_the_first_induction_head_is_in_the_log_of_the_app_and_in_headless_output():
    run = advance(trained(600), APPEARED)
    assert run.log[-1].text == "step 600: first induction head: layer 1, head 3 (induction score 42.2%)"
    assert news(APPEARED, run) == [(run.log[-1].text, "good")]
    assert news(heads(600), run) == news(health(600), run) == []


@pytest.mark.parametrize("last_step", [599, 1000])
def test_a_resumed_run_and_a_followed_log_have_the_statistics_up_to_their_step(tmp_path: Path, last_step: int):
    steps = [step(number) for number in range(1, 1001)]
    events = [started(), *steps[:300], heads(300), health(300), *steps[300:600], heads(600), APPEARED, *steps[600:]]
    path = write_log(tmp_path, [*events, scored(1000, 0.1)])
    run = replay_log(RunState(), path, last_step)
    assert [point.place.step for point in run.heads] == [300, 600][: 1 + (last_step > 600)]
    assert (run.induction is not None) == (last_step > 600)
    assert len(run.health) == 1
    follower = LogFollower(path)
    while not follower.at_end:
        follower.read()
    assert follower.history.induction == (follower.history.heads[1].place, 1, 3, 0.4217)


@pytest.mark.parametrize("metric", ["train_loss", "perplexity"])
def test_the_chart_of_a_loss_marks_where_the_induction_head_appeared(metric: str):
    run = advance(trained(600), APPEARED)
    run = advance_all(run, [step(number) for number in range(601, 1001)])
    series = chart_series(run, metric, "steps", columns=120)
    assert series is not None
    picture = raster(series, 60, 12)
    rows, columns = np.nonzero(picture.layers == INDUCTION)
    assert set(columns.tolist()) == {column_of(600.0, series.x_range, 60)}
    assert len(rows) >= 9
    assert {chr(code) for code in picture.characters[rows, columns]} == {INDUCTION_CHARACTER}
    assert f"{INDUCTION_CHARACTER}[/] induction head" in legend(run, metric, 100)
    assert "first induction head" in [line.label for line in chart_lines(series, registered(metric), export_colors())]
    cursor = raster(series, 60, 12, cursor=series.induction_x)
    assert (cursor.layers[:, columns[0]] == CURSOR).sum() >= 9


def test_other_charts_and_other_parts_of_the_run_have_no_mark():
    run = advance(trained(1000), APPEARED)
    assert chart_series(run, "grad_norm", "steps", columns=120).induction_x is None
    window = chart_series(run, "train_loss", "steps", columns=120, window=Range(1.0, 500.0))
    assert window.induction_x is None
