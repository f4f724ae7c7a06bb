"""Extreme values: every chart, label and number accepts them, and remains short.

Random series have a fixed seed.
"""

from __future__ import annotations

import itertools
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from textual.app import App, ComposeResult
from textual.content import Content

from gpt_core.training.events import EvalCompleted, GradientNorms, RunFinished, StepCompleted, UpdateSkipped, to_json
from gpt_tui.charts.axes import linear_ticks, log_ticks, tick_labels, time_labels, time_ticks, y_axis
from gpt_tui.charts.labels import legend, readout, title
from gpt_tui.charts.overlay import NamedRun, combined_range, compared_metrics, overlay_raster, overlay_series, value_at
from gpt_tui.charts.raster import raster
from gpt_tui.charts.run_charts import RunCharts
from gpt_tui.charts.series import chart_series, full_range, second_metrics
from gpt_tui.charts.view import AXES, Y_RANGES, ChartView
from gpt_tui.headless.event_text import figures, news, steps_line
from gpt_tui.run_view.status import status_rows
from gpt_tui.session.log_reader import BestEvaluation
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_events import advance, advance_all
from gpt_tui.session.run_finder import RunInfo, RunStatus
from gpt_tui.session.run_state import RunState
from gpt_tui.shared import formatting
from gpt_tui.tabs.runs.compare_charts import CompareCharts
from gpt_tui.tabs.runs.presenter import cells
from gpt_tui.tabs.runs.presenter import legend as runs_legend
from tests.tui.samples import LIMITS, started

pytestmark = pytest.mark.slow

EXTREMES = (
    0.0, -0.0, 5e-324, 1e-310, 1e-12, 1e-3, 1.0, -3.0, 300.0, 683.0, 690.8, 709.8, 710.0, 99_999.5, 1e6, 9.99e14, 1e16,
    3.4e38, 1e189, 1e300, 1.7e308, -1e189, -1.7e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
SIZES = ((1, 1), (2, 3), (5, 2), (60, 12), (198, 45))
LONGEST = 24  # characters of a number with its unit
SEED = 20_260

Series = list[tuple[int, int, float, float]]  # step, tokens, seconds, loss


def along_an_axis(losses: list[float], kind: int = 0) -> Series:
    """Place losses at steps 1, 2, ...; at huge steps; all at one time; or at times that hardly differ."""
    places: dict[int, Callable[[int], tuple[int, int, float]]] = {
        0: lambda n: (n, n * 1024, n / 10),
        1: lambda n: (2**52 + n, 2**53 + n * 4096, 1e12 + n),
        2: lambda n: (n, n, 7.0),
        3: lambda n: (n, n * 10**12, n * 5e-324),
    }
    return [(*places[kind](n), loss) for n, loss in enumerate(losses, 1)]


def random_losses(length: int, seed: int) -> list[float]:
    """Return losses of any size and sign, some of them extreme values."""
    generator = np.random.default_rng(seed)
    sizes = generator.uniform(-320, 308, length) if seed % 2 else generator.uniform(-2, 4, length)
    losses = (10.0**sizes * generator.choice([1, 1, 1, -1], length)).tolist()
    return [EXTREMES[index] if (index := int(generator.integers(0, 80))) < len(EXTREMES) else loss for loss in losses]


def all_series() -> Iterator[tuple[str, Series]]:
    for value in EXTREMES:
        yield f"constant {value}", along_an_axis([value] * 20)
        yield f"one point of {value}", along_an_axis([value])
        yield f"a spike of {value}", along_an_axis([3.0] * 10 + [value] + [3.0] * 10)
    for first, second in itertools.pairwise(EXTREMES):
        yield f"{first} alternating with {second}", along_an_axis([first, second] * 6)
    for seed in range(SEED, SEED + 24):
        yield f"random {seed}", along_an_axis(random_losses(40, seed), seed % 4)
    yield "a rise to infinity", along_an_axis([math.exp(min(n, 709)) for n in range(900)])
    yield "a long run", along_an_axis(random_losses(5000, SEED + 1))
    yield "a long run far out", along_an_axis(random_losses(5000, SEED), 1)


def history_of(series: Series) -> RunState:
    """Return a run with these steps, and an evaluation every third step."""
    history = advance(RunState(limits=LIMITS), started())
    for number, (step, tokens, seconds, loss) in enumerate(series):
        if number % 3 == 0 and len(series) < 1000:
            history = advance(history, EvalCompleted(step, loss, loss, 0.1, loss))
            history = advance(history, GradientNorms(step, {"wte": loss, "wpe": 1.0}, {"wte": loss}))
            history = advance(history, UpdateSkipped(step, 1, f"the loss was {loss}"))
        norm = abs(loss)
        event = StepCompleted(step, 0, loss, norm, norm, norm, tokens, norm, seconds)
        history = advance_all(history, [event])
    return history


def views(history: RunState) -> Iterator[ChartView]:
    """Return views with all axes, scales and y ranges: complete, zoomed to the end, zoomed to the middle."""
    for axis, log, y_range in itertools.product(AXES, (False, True), Y_RANGES):
        full = full_range(history, axis)
        view = ChartView(axis=axis, log=log, y_range=y_range).with_cursor_moved(-0.3, full)
        yield view
        yield view.zoomed(1e-9, full)
        yield view.zoomed(0.01, full, around=full.low + full.span / 3)


def in_turn(choices: Sequence[Any], name: str) -> Iterator[Any]:
    """Repeat the choices without end, from another one on for each name: all pairs would take five times as long."""
    start = zlib.crc32(name.encode()) % len(choices)
    return itertools.cycle([*choices[start:], *choices[:start]])


SERIES = [pytest.param(*each, id=each[0]) for each in all_series()]


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def check_drawn(history: RunState, view: ChartView, columns: int, rows: int) -> None:
    """Check that the charts of a run are drawn, with short labels."""
    window = view.window(full_range(history, view.axis))
    assert window.low < window.high
    for metric in ("train_loss", "perplexity", "grad_norm"):
        drawn = chart_series(
            history, metric, view.axis, columns=columns * 2, log=view.log, window=window, tight=view.is_tight(metric)
        )
        assert drawn is not None
        assert -math.inf < drawn.y_range.low < drawn.y_range.high < math.inf
        scale = y_axis(drawn, rows)
        assert len(scale.ticks) == len(scale.labels)
        assert len(set(scale.labels)) == len(scale.labels) <= 25
        assert scale.width <= 12
        picture = raster(drawn, columns, rows, grid=scale.ticks, cursor=view.cursor)
        assert picture.characters.shape == (rows, columns)


@pytest.mark.parametrize(("name", "series"), SERIES)
def test_every_series_is_drawn_at_every_size_and_scale_with_short_labels(name: str, series: Series) -> None:
    history = history_of(series)
    sizes = in_turn(SIZES if len(series) < 1000 else SIZES[3:4], name)
    for view, size in zip(views(history), sizes, strict=False):
        check_drawn(history, view, *size)


@pytest.mark.essential
@pytest.mark.parametrize("value", [math.inf, math.nan, 1.7e308, -1e189, 5e-324])
def test_a_spike_of_an_extreme_value_is_drawn_on_both_scales(value: float) -> None:
    history = history_of(along_an_axis([3.0] * 10 + [value] + [3.0] * 10))
    for log in (False, True):
        check_drawn(history, ChartView(log=log), 60, 12)


@pytest.mark.parametrize(("name", "series"), SERIES)
def test_runs_of_every_series_are_compared(name: str, series: Series) -> None:
    runs = [NamedRun(1, "a", history_of(series)), NamedRun(2, "b", history_of(along_an_axis([3.0, 2.0, 1.0])))]
    for view, metric_name in zip(views(runs[0].state), in_turn(compared_metrics(), name), strict=False):
        window = view.window(combined_range(runs, view.axis))
        drawn = overlay_series(runs, metric_name, view.axis, columns=80, log=view.log, window=window)
        if drawn is not None:
            scale = y_axis(drawn, 10)
            assert scale.width <= 12
            assert overlay_raster(drawn, 40, 10, grid=scale.ticks, cursor=view.cursor).layers.shape == (10, 40)
        value_at(runs[0], metric_name, view.axis, view.cursor)
        for line in runs_legend(runs, ["", ""], metric_name, view.axis, view.cursor, width=40, height=8):
            assert len(line.value) <= 10


@pytest.mark.parametrize(("name", "series"), SERIES)
def test_every_figure_about_every_series_is_short(name: str, series: Series) -> None:
    history = history_of(series)
    for view, metric in zip(views(history), in_turn(("train_loss", *second_metrics()), name), strict=False):
        for value in (None, series[-1][-1]):
            assert Content.from_markup(title(history, metric, view, max_above=value)).cell_length <= 90
        readout(history, metric, view, 60)
        legend(history, metric, 60)
    for row in status_rows(history, SessionStatus(Phase.TRAINING, 1e300, 10**18), 40):
        assert len(row.value) <= 60, row
    assert len(figures(history)) <= 120
    assert len(steps_line(history)) <= 180
    assert all(len(line.text) <= 120 for line in history.log)
    for event in (
        EvalCompleted(1, series[-1][-1], series[-1][-1], 0.5, series[-1][-1]),
        UpdateSkipped(1, 1, "the loss was inf"),
        RunFinished("diverged", 3, "", 0, series[-1][-1], 8.03),
    ):
        assert all(len(line) <= 200 for line, _ in news(event, history))
        to_json(event)
    best = BestEvaluation(series[-1][-1], 0.5, series[-1][-1])
    run = RunInfo(Path("models"), RunStatus.FINISHED, started(), 3, series[-1][-1], best, 0.0)
    assert all(len(cell) <= 7 for cell in cells(run, 1, 1e300)[6:11])


NUMBERS = [*EXTREMES, *random_losses(300, SEED + 1), *random_losses(300, SEED)]
WRITERS = [
    formatting.integer, formatting.short, formatting.nats, formatting.fixed, formatting.perplexity, formatting.rate,
    formatting.percent, formatting.duration, formatting.age, formatting.clock, formatting.size, formatting.scientific,
    formatting.narrow,
]  # fmt: skip


@pytest.mark.essential
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_number_is_short(write: Callable[[float], str]) -> None:
    for number in NUMBERS:
        assert 0 < len(write(number)) <= LONGEST, number
    for number in (0, 2**53, 2**63, 10**290):
        assert 0 < len(write(number)) <= LONGEST


@pytest.mark.parametrize("number", NUMBERS[: len(EXTREMES)])
def test_a_progress_bar_has_its_width(number: float) -> None:
    assert len(formatting.bar(number, 10)) == 10


@pytest.mark.parametrize("find", [linear_ticks, log_ticks, time_ticks])
def test_every_range_has_few_ticks_with_a_label_each(find: Callable[[float, float, int], list[float]]) -> None:
    for low, high in itertools.product(EXTREMES, repeat=2):
        if find is time_ticks and not 0 <= low < high < 1e15:
            continue  # seconds of a run
        ticks = find(low, high, 6)
        assert len(ticks) <= 20
        labels = time_labels(ticks) if find is time_ticks else tick_labels(ticks)
        assert len(labels) == len(ticks)
        assert all(len(label) <= 16 for label in labels), (low, high, labels)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([1e0, 1e100, 1e200, 1e300], ["1", "1e+100", "1e+200", "1e+300"]),
        ([0.1, 10.0, 1e3, 1e5, 1e7], ["0.1", "10", "1k", "100k", "10M"]),
        ([0.0, 1e189, 2e189], ["0", "1e+189", "2e+189"]),
        ([1.0e17, 1.002e17, 1.004e17], ["1.000e+17", "1.002e+17", "1.004e+17"]),
        ([0.0, 5e9, 1e10], ["0", "5G", "10G"]),
    ],
)
def test_large_ticks_are_written_in_scientific_notation(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (formatting.perplexity(1e290), "1.0e+290"), (formatting.perplexity(math.inf), "> 1e300"),
        (formatting.perplexity(1e300), "> 1e300"), (formatting.perplexity(math.nan), "–"),
        (formatting.perplexity(1_234_567.0), "1.2e+06"), (formatting.nats(321.4), "321.40"),
        (formatting.nats(1e189), "1.0e+189"), (formatting.nats(54_321.0), "54,321"),
        (formatting.integer(10**18), "1.0e+18"),
        (formatting.rate(math.nan), "–"), (formatting.clock(math.nan), "–"), (formatting.clock(1e15), "1.2e+10 d"),
        (formatting.percent(1e300), "1.0e+302%"), (formatting.size(1e12), "1.0 TB"),
        (formatting.short(1e30), "1.0e+30"),
    ],
)  # fmt: skip
def test_extreme_numbers_have_a_power_of_ten(written: str, wanted: str) -> None:
    assert written == wanted


class ChartsApp(App[None]):
    """Charts of one run and of several."""

    CSS = "Chart { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield RunCharts(id="one")
        yield CompareCharts(id="several")


WIDGET_SERIES = [each for number, each in enumerate(all_series()) if number % 7 == 0 and len(each[1]) < 1000]


async def test_charts_of_every_size_are_painted() -> None:
    sizes = ((100, 40), (14, 9), (1, 1), (12, 4), (30, 12))
    async with ChartsApp().run_test(size=sizes[0]) as pilot:
        one, several = pilot.app.query_one("#one", RunCharts), pilot.app.query_one(CompareCharts)
        painted = 0
        for first, size in enumerate(sizes):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            for number in range(first, len(WIDGET_SERIES), len(sizes)):
                state = history_of(WIDGET_SERIES[number][1])
                one.show(state)
                several.show_runs([NamedRun(1, "a", state)], ["details"], "")
                for view in itertools.islice(views(state), number % 5, None, 5):
                    one.view = several.view = view
                    one.next_metric()
                    several.next_metric()
                    # drawn without waiting for a frame of the app, which takes much longer
                    painted += 1
                    screen = pilot.app.screen._compositor.render_strips()
                    assert all(strip.cell_length <= pilot.app.size.width for strip in screen)
    assert painted >= 10 * len(WIDGET_SERIES)


async def test_painting_reaches_the_charts() -> None:
    """The test above would pass if the strips were those of an earlier view."""
    async with ChartsApp().run_test(size=(100, 40)) as pilot:
        one = pilot.app.query_one("#one", RunCharts)
        pictures = []
        for losses in ([3.0, 2.0, 1.0] * 9, [math.nan] * 20, [1e300, 1.0] * 9):
            one.show(history_of(along_an_axis(losses)))
            for log in (False, True):
                one.view = ChartView(log=log)
                pictures.append("\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips()))
        assert len(set(pictures)) == len(pictures)


def test_events_with_nonfinite_values_are_valid_json() -> None:
    for value in EXTREMES:
        line = to_json(EvalCompleted(3, value, value, 0.5, value))
        assert msgspec.json.decode(line)["event"] == "eval"
