"""Charts without a terminal: what is drawn where, in which range, with which labels."""

import math
from itertools import pairwise

import numpy as np
import pytest

from gpt_tui.charts.axes import linear_ticks, log_ticks, tick_labels, time_labels, time_ticks, y_axis
from gpt_tui.charts.raster import BEST, EVAL, RAW, SMOOTHED, raster
from gpt_tui.charts.series import Range, chart_series, full_range, nearest_row
from gpt_tui.charts.view import ChartView
from gpt_tui.session.run_state import RunState, advance
from tests.tui.samples import scored, step, trained


def drawn(history, metric="train_loss", *, log=False, columns=60, rows=12, window=None):
    series = chart_series(history, metric, "steps", columns=columns * 2, log=log, window=window)
    assert series is not None
    return series, raster(series, columns, rows)


def test_there_is_nothing_to_draw_before_the_first_step():
    assert chart_series(trained(0), "train_loss", "steps", columns=80) is None


def test_a_chart_has_one_point_a_dot_column_at_most_and_keeps_spikes():
    history = trained(5000, lambda n: 20.0 if n == 2500 else 3.0)
    series, _ = drawn(history)
    assert len(series.x) <= 122
    assert series.high.max() == 20.0


def test_a_falling_loss_is_drawn_from_the_top_left_to_the_bottom_right():
    _, picture = drawn(trained(1000))
    rows_of_line = [np.flatnonzero(picture.layers[:, column] == SMOOTHED) for column in range(60)]
    assert rows_of_line[0].min() <= 1
    assert rows_of_line[-1].max() >= 10
    means = [rows.mean() for rows in rows_of_line if len(rows)]
    assert len(means) == 60
    assert all(later >= earlier - 1 for earlier, later in pairwise(means))


def test_every_line_character_is_braille_and_every_row_is_as_wide_as_the_chart():
    _, picture = drawn(trained(1000))
    for row in range(12):
        runs = picture.runs(row)
        assert sum(len(text) for text, _ in runs) == 60
        for text, layer in runs:
            if layer in (RAW, SMOOTHED):
                assert all(0x2800 < ord(character) <= 0x28FF for character in text)


def test_one_single_step_can_be_drawn():
    _, picture = drawn(trained(1))
    assert 1 <= (picture.layers == SMOOTHED).sum() <= 2


def test_evaluations_are_marked_and_the_best_one_differently():
    history = trained(1000)
    for number, accuracy in ((250, 0.1), (500, 0.3), (750, 0.2)):
        history = advance(history, scored(number, accuracy, 4.0))
    series, picture = drawn(history)
    assert [mark.best for mark in series.marks] == [False, True, False]
    assert (picture.layers == EVAL).sum() == 2
    assert [chr(c) for c in picture.characters[picture.layers == BEST]] == ["★"]


def test_many_evaluations_leave_the_line_between_them_visible():
    history = trained(1000)
    for number in range(10, 1001, 10):
        history = advance(history, scored(number, 0.1))
    _, picture = drawn(history)
    assert (picture.layers == EVAL).sum() <= 60 / 4 + 1


def test_logarithmic_distance_is_what_the_log_scale_shows():
    history = trained(1000, lambda n: math.exp(-n / 200))
    _, picture = drawn(history, log=True, rows=40)
    rows = [np.flatnonzero(picture.layers[:, c] == SMOOTHED).mean() for c in range(10, 60)]
    slopes = np.diff(rows)
    assert slopes.std() < 1.0  # an exponential is a straight line
    assert slopes.mean() > 0.4


def test_log_scale_survives_a_loss_of_zero():
    _, picture = drawn(trained(100, lambda n: 0.0), log=True)
    assert (picture.layers == SMOOTHED).any()


def test_losses_that_are_not_finite_are_gaps():
    history = trained(100, lambda n: math.nan if 40 <= n < 60 else 3.0)
    series, picture = drawn(history)
    assert np.isfinite(series.y_range).all()
    assert (picture.layers == SMOOTHED).any()
    only_nan, _ = drawn(trained(5, lambda n: math.nan))
    assert np.isfinite(only_nan.y_range).all()


def test_perplexity_leaves_its_first_fall_at_the_top_so_that_the_rest_is_seen():
    series, _ = drawn(trained(1000), "perplexity")
    assert series.y_range.high < math.exp(7.0) / 4
    assert series.y_range.low < math.exp(3.0)


def test_the_view_zooms_pans_and_follows_the_run():
    whole = Range(0.0, 1000.0)
    view = ChartView().zoomed(0.5, whole)
    assert view.window(whole) == (500.0, 1000.0)
    assert view.window(Range(0.0, 2000.0)) == (1000.0, 2000.0)  # the run went on, and the view with it
    back = view.panned(-0.5, whole)
    assert back.window(whole) == (250.0, 750.0)
    assert back.panned(-9, whole).window(whole) == (0.0, 500.0)
    assert back.panned(+9, whole).end is None
    around = ChartView().zoomed(0.5, whole, around=250.0)
    assert around.window(whole) == (125.0, 625.0)
    assert around.zoomed(8.0, whole).span == 1.0
    assert [v.axis for v in (view.with_next_axis(), view.with_next_axis().with_next_axis())] == ["tokens", "time"]


def test_a_long_curve_is_redrawn_as_often_as_a_dot_of_it_changes():
    view = ChartView()
    assert [view.redraw_interval_s(age) for age in (0, 60, 200, 86_400)] == [0.5, 0.5, 1.0, 2.0]
    assert ChartView(span=0.1).redraw_interval_s(1_000) == 0.5  # what is seen of it is a hundred seconds long


def test_a_window_draws_only_its_part():
    history = trained(3000, lambda n: 3.0 if n < 2000 else 9.0)
    series, _ = drawn(history, window=Range(100.0, 1000.0))
    assert series.y_range.high < 4.0


def test_the_readout_takes_the_nearest_point():
    history = trained(100)
    assert nearest_row(history, "steps", 41.4)[0] == 41
    assert nearest_row(history, "time", 4.16)[0] == 42
    assert nearest_row(RunState(), "steps", 1.0) is None


def test_a_run_of_one_step_has_an_axis():
    assert full_range(trained(1), "steps").span > 0
    assert full_range(advance(RunState(), step(7)), "tokens").span > 0


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        (linear_ticks(2.3, 8.2, 6), ["3", "4", "5", "6", "7", "8"]),
        (linear_ticks(0, 6000, 6), ["0", "1,000", "2,000", "3,000", "4,000", "5,000", "6,000"]),
        (linear_ticks(0, 3_000_000, 3), ["0", "1M", "2M", "3M"]),
        (linear_ticks(-0.5, 45.0, 1), ["0", "20", "40"]),
        (linear_ticks(2.71, 2.79, 4), ["2.72", "2.74", "2.76", "2.78"]),
        (log_ticks(9.0, 3900.0, 4), ["10", "100", "1,000"]),
        (log_ticks(0.001, 0.4, 4), ["0.001", "0.010", "0.100"]),
        (log_ticks(2.6, 3.4, 4), ["2.6", "2.8", "3.0", "3.2", "3.4"]),
    ],
)
def test_ticks_are_round_and_told_apart(ticks, labels):
    assert tick_labels(ticks) == labels


def test_times_have_round_ticks():
    assert time_labels(time_ticks(0, 100, 5)) == ["0 s", "30 s", "1 min", "1:30"]
    assert time_labels(time_ticks(0, 7200, 4)) == ["0 s", "30 min", "1 h", "90 min", "2 h"]


def test_degenerate_ranges_have_ticks_too():
    for find in (linear_ticks, log_ticks, time_ticks):
        assert find(5.0, 5.0, 4) == [5.0]


def test_a_scale_is_as_wide_as_its_widest_label():
    series, _ = drawn(trained(1000), "perplexity")
    scale = y_axis(series, 12)
    assert len(scale.ticks) == len(scale.labels) > 2
    assert scale.width == max(map(len, scale.labels))
