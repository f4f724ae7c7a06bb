"""Comparison of runs: lines, numbers, legend, comparability; text of the list and the status."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from textual.app import App, ComposeResult

from gpt_core.config.presets import CUSTOM, PRESETS, preset
from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics import Metric, register, unregister
from gpt_tui.charts.chart import Chart
from gpt_tui.charts.overlay import (
    FIRST_RUN_LAYER,
    MAX_RUNS,
    NamedRun,
    combined_range,
    compared_metrics,
    overlay_raster,
    overlay_series,
    value_at,
)  # fmt: skip
from gpt_tui.charts.series import Range
from gpt_tui.run_view.status import status_rows
from gpt_tui.session.log_reader import BestEvaluation
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_finder import CheckpointFacts, RunInfo, RunStatus
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.spans import shortened_names
from gpt_tui.shared.theme import DAY, NIGHT, RUNS_ON_DARK, RUNS_ON_LIGHT, run_colors
from gpt_tui.tabs.runs.compare_charts import CompareCharts
from gpt_tui.tabs.runs.presenter import (
    COLUMNS,
    CRASHED_TEXT,
    cells,
    chart_title,
    columns_at,
    default_metric,
    details,
    differences,
    legend,
    log_rows,
    place_of,
    tokenizer_note,
)  # fmt: skip
from tests.tui.log_samples import run_events
from tests.tui.samples import started, step


def run(number: int, steps: int = 200, **options: object) -> NamedRun:
    events = run_events(steps, seed=number, **options)  # type: ignore[arg-type]
    return NamedRun(number, f"run {number}", advance_all(RunState(), events))  # type: ignore[arg-type]


def drawn(runs: list[NamedRun], name: str = "train_loss", window: Range | None = None, log: bool = False):  # type: ignore[no-untyped-def]
    whole = window or combined_range(runs, "steps")
    series = overlay_series(runs, name, "steps", columns=160, log=log, window=whole)  # type: ignore[arg-type]
    return series, overlay_raster(series, 80, 20, grid=[]) if series else None


def test_the_axes_cover_all_runs() -> None:
    runs = [run(1, 100), run(2, 300)]
    assert combined_range(runs, "steps") == Range(1.0, 300.0)
    assert combined_range(runs, "time") == Range(0.1, 30.0)
    assert combined_range([], "steps") == Range(0.0, 1.0)
    series, _ = drawn(runs, log=True)
    for each in runs:
        smoothed = each.state.curve.rows()[:, -1]
        assert series.y_range.low <= smoothed.min()
        assert smoothed.max() <= series.y_range.high


def test_a_linear_scale_zooms_in_on_the_ends_of_the_lines() -> None:
    runs = [run(1, 400), run(2, 400)]
    series, _ = drawn(runs)
    ends = [each.state.curve.smoothed for each in runs]
    assert series.y_range.low <= min(ends) <= max(ends) <= series.y_range.high
    assert series.y_range.high < max(each.state.curve.rows()[0, -1] for each in runs)


@pytest.mark.parametrize("metric_name", ["train_loss", "perplexity", "bits_per_byte"])
@pytest.mark.parametrize("log", [False, True])
def test_each_run_has_a_line_labeled_with_its_number(metric_name: str, log: bool) -> None:
    runs = [run(number, 100 + 40 * number, rate=40.0 * number) for number in range(1, MAX_RUNS + 1)]
    _, picture = drawn(runs, metric_name, log=log)
    for each in runs:
        where = picture.layers == FIRST_RUN_LAYER - 1 + each.number
        assert where.any()
        assert ord(str(each.number)) in picture.characters[where]


def test_numbers_of_runs_that_end_together_do_not_touch() -> None:
    runs = [NamedRun(number, "", run(1).state) for number in range(1, MAX_RUNS + 1)]
    _, picture = drawn(runs)
    numbers = (picture.characters >= ord("1")) & (picture.characters <= ord("8"))
    assert set(picture.characters[numbers]) == {ord(str(number)) for number in range(1, 9)}
    assert not (numbers[:, 1:] & numbers[:, :-1]).any()


def test_a_run_outside_the_window_has_no_line_there() -> None:
    series, _ = drawn([run(1, 50), run(2, 300)], window=Range(200.0, 250.0))
    assert [line.number for line in series.lines if (line.x > 200).any()] == [2]
    assert drawn([NamedRun(1, "", RunState())])[0] is None


def test_a_run_of_one_step_is_drawn() -> None:
    alone = NamedRun(1, "", advance_all(RunState(), [started(), step(1)]))
    series, picture = drawn([alone])
    assert len(series.lines[0].x) == 1
    assert ord("1") in picture.characters


def test_losses_that_are_not_finite_are_gaps() -> None:
    broken = advance_all(RunState(), [started(), step(1, math.nan), step(2, 3.0), step(3, math.inf), step(4, 2.0)])
    series, _ = drawn([NamedRun(1, "", broken)])
    assert np.isfinite(series.y_range).all()


def test_the_legend_reads_each_run_where_it_has_a_point() -> None:
    short, long = run(1, 50), run(2, 300)
    assert value_at(short, "train_loss", "steps", 200.0) is None
    assert value_at(long, "train_loss", "steps", 200.0) == pytest.approx(3.5, abs=0.4)
    assert value_at(short, "train_loss", "steps", None) == short.state.curve.smoothed
    assert value_at(long, "bits_per_byte", "steps", 120.0) == pytest.approx((3.0 + 4.0 * math.exp(-1)) / 2)
    assert value_at(long, "bits_per_byte", "steps", 20.0) is None
    assert value_at(long, "perplexity", "steps", None) == math.exp(long.state.curve.smoothed)
    assert place_of([short, long], "steps", 120.2) == "at step 120"
    assert place_of([short, long], "time", 65.0) == "at 1:05"
    assert place_of([short, long], "steps", None) == "at the end"


def test_scores_of_a_part_of_the_eval_text_are_marked_in_the_legend() -> None:
    whole = run(1, 300)
    assert whole.state.started is not None
    start = msgspec.structs.replace(whole.state.started, eval_part_tokens=1000)
    runs = [whole, whole._replace(number=2, state=replace(whole.state, started=start))]
    scores, losses = (
        [line.value for line in legend(runs, ["", ""], name, "steps", None, width=30, height=2)]
        for name in ("bits_per_byte", "train_loss")
    )
    assert scores[1] == f"~{scores[0]}"
    assert losses[1] == losses[0]


def test_the_legend_lists_all_runs_first_and_details_if_they_fit() -> None:
    runs = [run(number) for number in range(1, MAX_RUNS + 1)]
    details = ["attn_lr 0.003"] * len(runs)
    low = legend(runs, details, "train_loss", "steps", None, width=26, height=8)
    assert [line.number for line in low] == list(range(1, 9))
    tall = legend(runs, details, "train_loss", "steps", None, width=26, height=20)
    assert [line.text for line in tall[:2]] == ["run 1", "attn_lr 0.003"]
    assert all(len(line.text) + len(line.value) + 6 <= 26 for line in low)


def test_long_names_of_runs_leave_room_for_their_values_on_the_same_line() -> None:
    runs = [run(number)._replace(name=f"a_long_folder_of_runs/learning_rate_{number}") for number in range(1, 9)]
    lines = legend(runs, [""] * len(runs), "train_loss", "steps", None, width=28, height=8)
    assert [len(f"1 ⠒⠒ {line.text} {line.value}") for line in lines] == [28] * 8
    assert all(line.text.startswith("…") for line in lines)


@pytest.mark.parametrize("width", [26, 32, 38])
@pytest.mark.parametrize("height", range(4, 40))
def test_settings_that_do_not_fit_into_the_legend_end_with_an_ellipsis(width: int, height: int) -> None:
    runs = [run(number, 20) for number in range(1, 5)]
    detail = "20 steps, finished\nattn_lr 0.003, batch_size 16, dropout 0.1, layers 4, seed 1, weight_decay 0.1"
    lines = legend(runs, [detail] * len(runs), "train_loss", "steps", None, width=width, height=height)
    assert len(lines) <= height
    assert sum(line.number > 0 for line in lines) == len(runs)
    last = [line for line, after in zip(lines, [*lines[1:], lines[0]], strict=True) if after.number and not line.number]
    assert all(line.text.endswith((" …", "0.1", "finished")) for line in last)
    assert all(len(line.text) <= width - 2 for line in last)


# -- comparability


def facts(tokenizer: str, **changes: object) -> CheckpointFacts:
    return CheckpointFacts(msgspec.structs.replace(preset("nano"), **changes), tokenizer)


def run_of(tokenizer: str, best_bits: float = 2.0) -> RunInfo:
    checkpoint = CheckpointFacts(None, tokenizer)
    return RunInfo(
        Path(tokenizer or "unknown"),
        RunStatus.FINISHED,
        best=BestEvaluation(bits_per_byte=best_bits),
        checkpoint=checkpoint,
    )


def test_runs_with_different_tokenizers_are_compared_by_bits_per_byte_with_a_note() -> None:
    differ = [run_of("a"), run_of("b")]
    assert default_metric(differ) == "bits_per_byte"
    assert "tokenizers differ" in tokenizer_note(differ)
    assert default_metric([run_of("a"), run_of("a")]) == "train_loss"
    assert tokenizer_note([run_of("a"), run_of("a")]) == ""


def test_an_unknown_tokenizer_is_named_as_such() -> None:
    unknown = [run_of("a"), run_of("")]
    assert "its tokenizer is unknown" in tokenizer_note(unknown)
    assert default_metric(unknown) == "train_loss"
    assert default_metric([run_of("a"), run_of("b", math.inf)]) == "train_loss"


def test_the_settings_that_differ_are_listed() -> None:
    one, other = facts("a").settings, facts("a", attn_lr=0.01, models_dir="elsewhere", threads=7).settings
    assert differences([one, other, None]) == ["attn_lr 0.003", "attn_lr 0.01", ""]
    slower = facts("a", **dict.fromkeys(GROUP_RATES, 0.01)).settings
    assert differences([one, slower]) == ["learning_rate 0.003", "learning_rate 0.01"]
    assert differences([None, None]) == ["", ""]
    assert differences([Settings(), Settings()]) == ["", ""]


def test_the_settings_that_differ_are_written_as_they_are_typed() -> None:
    one = facts("a", train_file=("a.txt", "texts"), hold_out=True).settings
    other = facts("a", train_file="b.txt", eval_file="c.txt").settings
    assert differences([one, other]) == [
        "train_file a.txt; texts, eval_file (empty), hold_out true",
        "train_file b.txt, eval_file c.txt, hold_out false",
    ]


# -- text


def test_a_row_shows_status_model_steps_and_scores() -> None:
    live = RunInfo(Path("models"), RunStatus.LIVE, started(), 1200, 3.21, updated_at=1000.0, pid=1)
    row = cells(live, 3, 1120.0)
    assert (*row[:4], row[6], row[7], row[-1]) == (
        "3", "models", "▶ training", "nano 1.07M", "1,200", "3.210", "2 min",
    )  # fmt: skip
    waiting = RunInfo(Path("a/b"), RunStatus.WAITING)
    assert cells(waiting, 0, 0.0)[:4] == (" ", "a/b", "○ waiting", "")


def test_control_characters_from_a_log_are_escaped() -> None:
    evil = RunInfo(Path("models/\x1b[31m"), RunStatus.CRASHED, started(preset="\x1b]0;x\x07"), 1, 3.0)
    assert not any("\x1b" in cell or "\x07" in cell for cell in cells(evil, 0, 0.0))
    history = advance_all(RunState(), [started(preset="\x1b]0;x\x07"), step(1)])
    assert not any("\x1b" in row.value for row in log_rows(evil, history, 0.0, 30))


@pytest.mark.parametrize("width", range(40, 220, 7))
def test_the_columns_fit_the_width(width: int) -> None:
    assert sum(cell_width + 2 for _, cell_width in columns_at(width)) <= max(width, 54)


@pytest.mark.parametrize("name", [*PRESETS, CUSTOM, "self-test"])
def test_the_model_of_a_run_fits_its_column(name: str) -> None:
    event = started(preset=name, parameters=57_500_000, kind="overfit-tiny" if name == "self-test" else "train")
    column = [column.title for column in COLUMNS].index("model")
    shown = cells(RunInfo(Path("models"), RunStatus.FINISHED, event), 0, 0.0)[column]
    assert shown == f"{name} 57.5M"
    assert len(shown) <= COLUMNS[column].width


def test_a_wide_list_has_a_column_for_every_score_and_setting_that_runs_differ_in() -> None:
    titles = {width: [COLUMNS[index].title for index, _ in columns_at(width)] for width in (77, 117, 197)}
    assert titles[77] == ["", "run", "status", "steps", "step loss", "bits/byte", "updated"]
    assert titles[117][3:] == ["model", "steps", "step loss", "eval loss", "accuracy", "bits/byte", "updated"]
    assert titles[197] == [column.title for column in COLUMNS]


def test_the_cells_of_a_run_are_its_settings_last_step_and_best_scores() -> None:
    run = RunInfo(
        Path("models"), RunStatus.FINISHED, started(train_file="data/train.en"), 1200, 2.5,
        BestEvaluation(2.75, 0.312, 1.505), 75.0, 20_400.0, 90.0, checkpoint=CheckpointFacts(preset("nano")),
    )  # fmt: skip
    shown = {column.title: cell for column, cell in zip(COLUMNS, cells(run, 0, 100.0), strict=True)}
    assert (shown["learning rate"], shown["batch"], shown["steps"]) == ("3.00e-3", "16 × 64", "1,200")
    assert (shown["step loss"], shown["eval loss"], shown["accuracy"], shown["bits/byte"]) == (
        "2.500", "2.750", "31.2%", "1.505",
    )  # fmt: skip
    part = run._replace(best=run.best._replace(part_tokens=65_536))
    marked = {column.title: cell for column, cell in zip(COLUMNS, cells(part, 0, 100.0), strict=True)}
    assert (marked["eval loss"], marked["accuracy"], marked["bits/byte"]) == ("~2.750", "~31.2%", "~1.505")
    assert details([part])[0].startswith("1,200 steps, finished\nbest 1.505 bits per byte (of 65.5k tokens)")
    assert (shown["time"], shown["tokens/s"], shown["text"]) == ("1:15", "20.4k", "train.en")
    largest = RunInfo(
        Path("models"), RunStatus.FINISHED, started(preset="induction", parameters=203_904, train_file="train.en"),
        checkpoint=CheckpointFacts(preset("induction")),
    )  # fmt: skip
    row = {column.title: cell for column, cell in zip(COLUMNS, cells(largest, 0, 100.0), strict=True)}
    assert (row["model"], row["learning rate"]) == ("induction 204k", "3.00e-4 to 2.00e-3")
    assert all(len(row[column.title]) <= column.width for column in COLUMNS)
    unknown = cells(RunInfo(Path("models"), RunStatus.WAITING), 0, 100.0)
    assert "–" in unknown
    assert not any("nan" in cell or "inf" in cell for cell in unknown)


def test_a_long_name_is_cut_at_its_start() -> None:
    assert shortened_names(["models/first", "models"], 8) == ["…s/first", "models"]
    assert shortened_names(["模型/第一", "模型"], 6) == ["…/第一", "模型"]  # two cells each


def test_names_that_would_be_equal_are_cut_in_the_middle() -> None:
    names = ["old-race/dropout=0/seed-1", "new-race/dropout=0/seed-1", "new-race/dropout=0/seed-2"]
    assert shortened_names(names, 16) == ["old-race…/seed-1", "new-race…/seed-1", "…ropout=0/seed-2"]
    assert shortened_names(names, 25) == names


def test_the_status_of_a_crashed_run_says_so_and_has_no_time_left() -> None:
    history = advance_all(RunState(), run_events(50, end=""))  # type: ignore[arg-type]
    dead = RunInfo(Path("models"), RunStatus.CRASHED, started(), 50)
    rows = log_rows(dead, history, 0.0, 40)
    assert CRASHED_TEXT in " ".join(row.value for row in rows)
    assert "time left" not in {row.label for row in rows}
    live = dead._replace(status=RunStatus.LIVE, pid=4711)
    rows = log_rows(live, history, 0.0, 40)
    assert {"time left", "process"} <= {row.label for row in rows}
    assert ("status", "▶ live") in {(row.label, row.value) for row in rows}
    assert ("process", "PID 4711") in {(row.label, row.value) for row in rows}


def test_each_theme_has_a_color_for_each_run() -> None:
    assert len(set(RUNS_ON_DARK)) == len(set(RUNS_ON_LIGHT)) == MAX_RUNS
    assert set(run_colors(dark=True)) == {f"run-{number}" for number in range(1, MAX_RUNS + 1)}


@pytest.mark.parametrize(
    ("colors", "ground"),
    [(RUNS_ON_DARK, NIGHT.background), (RUNS_ON_LIGHT, DAY.background), (RUNS_ON_LIGHT, "#e0e0e0")],
)
def test_every_run_color_has_enough_contrast(colors: tuple[str, ...], ground: str) -> None:
    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in colors:
        light, dark = sorted((luminance(color), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0, color  # what WCAG 2 asks of graphical objects


# -- metrics that are not built in


@pytest.fixture
def warmth() -> Iterator[Metric]:
    """Register a metric of the steps for one test."""
    added = Metric("warmth", "warmth", "°C", "warmth", "fixed", StepCompleted, lambda step: 100.0 / step.step)
    register(added)
    yield added
    unregister(added.name)


def test_an_added_metric_has_a_status_row_and_a_line_per_run(warmth: Metric) -> None:
    runs = [run(1, 100), run(2, 200)]
    rows = {row.label: row.value for row in status_rows(runs[1].state, SessionStatus(Phase.TRAINING), 40)}
    assert rows["warmth"] == "0.500 °C"
    assert compared_metrics()[-1] == "warmth"
    series, picture = drawn(runs, "warmth")
    assert [line.number for line in series.lines] == [1, 2]
    assert ord("2") in picture.characters
    assert value_at(runs[0], "warmth", "steps", 50.0) == 2.0
    assert value_at(runs[0], "warmth", "steps", None) == 1.0
    assert chart_title("warmth") == "warmth, °C"
    assert legend(runs, ["", ""], "warmth", "steps", None, width=30, height=2)[1].value == "0.500"


async def test_the_metric_key_reaches_an_added_metric(warmth: Metric) -> None:
    class CompareApp(App[None]):
        def compose(self) -> ComposeResult:
            yield CompareCharts(id="several")

    async with CompareApp().run_test(size=(100, 30)) as pilot:
        charts = pilot.app.query_one(CompareCharts)
        charts.show_runs([run(1, 100), run(2, 200)], ["", ""], "")
        for _ in range(len(compared_metrics()) - 1):
            charts.next_metric()
        await pilot.pause()
        assert charts.metric_name == "warmth"
        assert "warmth, °C" in charts.query_one(Chart).border_title


def test_chart_titles_name_smoothing_and_unit() -> None:
    assert chart_title("train_loss") == "train loss (smoothed), nats per token"
    assert chart_title("perplexity") == "perplexity (smoothed)"
    assert chart_title("bits_per_byte") == "eval bits per byte"
