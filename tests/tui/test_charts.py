"""Charts without a terminal: what is drawn where, in which range, with which labels."""

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from gpt_tui.charts.axes import linear_ticks, log_ticks, tick_labels, time_labels, time_ticks, y_axis
from gpt_tui.charts.raster import BEST, EVAL, EVAL_LINE, RAW, SMOOTHED, raster, row_of
from gpt_tui.charts.series import Range, chart_series, full_range, nearest_row, second_metrics
from gpt_tui.charts.view import ChartView
from gpt_tui.session.curve import RECENT, STEP, THINNED
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_state import RunState
from tests.tui.samples import scored, step, trained

DOT_BITS = np.array([[0, 3], [1, 4], [2, 5], [6, 7]], dtype=np.uint32)  # bit of each dot of a braille character


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
    assert 4 <= (picture.layers == EVAL).sum() <= 8  # two points, each across two to four characters
    assert [chr(c) for c in picture.characters[picture.layers == BEST]].count("★") == 1


def test_evaluations_are_drawn_at_the_resolution_of_dots():
    def point_row(loss):
        history = advance(trained(1000), scored(500, 0.1, loss))
        series, picture = drawn(history)
        cells = picture.characters * (picture.layers == BEST) * (picture.characters >= 0x2800)
        bits = (cells[:, None, :, None] >> DOT_BITS[None, :, None, :]) & (cells[:, None, :, None] > 0)
        dots = bits.reshape(48, 120).any(axis=1)
        assert row_of(loss, series.y_range, 48, False) == pytest.approx(np.flatnonzero(dots).mean() + 0.5, abs=0.5)
        return np.flatnonzero(dots).mean()

    rows = [point_row(loss) for loss in (4.33, 4.24, 4.15, 4.07)]  # 0.09 nats are one dot, 0.34 one character
    assert all(later > earlier for earlier, later in pairwise(rows))


def test_an_evaluation_has_a_marker_only_at_the_cursor():
    history = trained(1000)
    for number, accuracy in ((250, 0.3), (500, 0.1), (750, 0.2)):
        history = advance(history, scored(number, accuracy, 4.0))
    series, picture = drawn(history)
    assert ord("◆") not in picture.characters
    marked = raster(series, 60, 12, cursor=700.0).characters
    assert np.argwhere(marked == ord("◆"))[:, 1].tolist() == [44]
    assert np.argwhere(raster(series, 60, 12, cursor=1.0).characters == ord("★"))[-1][1] == 14


@pytest.mark.parametrize("cursor", [None, 100.0, 500.0, 900.0])
def test_the_best_evaluation_has_one_star_wherever_the_cursor_is(cursor):
    history = trained(1000)
    for number, accuracy in ((250, 0.1), (500, 0.3), (750, 0.2)):
        history = advance(history, scored(number, accuracy, 4.0))
    series, _ = drawn(history)
    assert (raster(series, 60, 12, cursor=cursor).characters == ord("★")).sum() == 1


def test_many_evaluations_leave_the_line_between_them_visible():
    history = trained(1000)
    for number in range(10, 1001, 10):
        history = advance(history, scored(number, 0.1, 5.0))
    _, picture = drawn(history)
    assert EVAL_LINE in picture.layers[(picture.layers == EVAL).any(axis=1)]


@pytest.mark.parametrize("metric", ["train_loss", "perplexity"])
def test_a_value_above_the_range_has_a_sign_at_the_top_edge(metric):
    history = trained(1000, lambda n: 12.0 if n == 700 else 3.0 + 4.0 * math.exp(-n / 100))
    series = chart_series(history, metric, "steps", columns=120, tight=True)
    picture = raster(series, 60, 12)
    signs = np.flatnonzero(picture.characters[0] == ord("▲"))
    assert 41 <= signs.max() <= 42
    assert series.max_above == pytest.approx(12.0 if metric == "train_loss" else math.exp(12.0))
    whole = chart_series(history, metric, "steps", columns=120, tight=False)
    assert whole.max_above is None
    assert ord("▲") not in raster(whole, 60, 12).characters


def test_a_value_above_the_range_outside_the_window_is_not_reported():
    history = trained(1000, lambda n: 12.0 if n == 700 else 3.0)
    series = chart_series(history, "train_loss", "steps", columns=120, window=Range(950, 1000), tight=True)
    assert series.max_above is None


def test_an_infinite_loss_is_above_every_range():
    series = chart_series(trained(100, lambda n: math.inf if n == 50 else 3.0), "train_loss", "steps", columns=120)
    assert series.max_above == math.inf
    assert ord("▲") in raster(series, 60, 12).characters[0]


@pytest.mark.parametrize("name", second_metrics())
def test_the_second_chart_can_show_every_metric(name):
    history = advance(trained(300), scored(200, 0.25))
    series, picture = drawn(history, name)
    values = {"learning_rate": 1e-3, "grad_norm": 0.5, "throughput": 10240.0, "accuracy": 0.25, "bits_per_byte": 2.5}
    if name in values:
        assert series.y_range.low < values[name] < series.y_range.high
    assert ((picture.layers == SMOOTHED) | (picture.layers == BEST)).any()


def test_the_line_of_the_learning_rate_is_exact_and_that_of_the_gradient_norm_smoothed():
    history = RunState()
    for number in range(1, 101):
        history = advance(history, msgspec.structs.replace(step(number), lr=number * 1e-5, grad_norm=float(number % 2)))
    lr, _ = drawn(history, "learning_rate")
    assert lr.smoothed[-1] == pytest.approx(1e-3)
    norm, _ = drawn(history, "grad_norm")
    assert (norm.low.min(), norm.high.max()) == (0.0, 1.0)
    assert 0.3 < norm.smoothed[-1] < 0.7


def test_the_curves_of_a_long_run_have_a_bounded_size():
    history = RunState()
    for first in range(1, 20_001, 1000):
        history = advance_all(history, [step(number) for number in range(first, first + 1000)])
    assert set(history.curves) == {"learning_rate", "grad_norm", "throughput"}
    for curve in history.curves.values():
        assert len(curve.thinned) <= THINNED
        assert len(curve.recent) <= RECENT
        assert curve.rows()[-1, STEP] == 20_000


def test_an_accuracy_axis_has_percentages():
    series, _ = drawn(advance(trained(300), scored(200, 0.25)), "accuracy")
    assert all(label.endswith("%") for label in y_axis(series, 8, percent=True).labels)


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
