"""Baselines on a chart and in words: which lines are drawn where, and that they never cover a curve."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core.training.events import BaselinesMeasured, from_json, to_json
from gpt_tui.charts.baselines import ChartBaseline, chart_baselines, draw_baselines
from gpt_tui.charts.raster import BASELINE, GRID, Raster, raster
from gpt_tui.charts.series import ChartSeries, chart_series
from gpt_tui.headless.event_text import news
from gpt_tui.session.baseline_text import baselines_of, baselines_text
from gpt_tui.session.log_replay import replay_log
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_events import advance
from gpt_tui.session.run_state import RunState
from tests.tui.app_bench import settled
from tests.tui.conftest import Snapshot
from tests.tui.samples import learned, trained
from tests.tui.snapshots import screen_text
from tests.tui.still_app import still_app

EVENT = BaselinesMeasured(6, 8.03, 6.289, 2.9037, {"xz": 2.466, "ppmd": 1.937})
RUN = advance(learned(), EVENT)


def plotted(state: RunState, lines: list[ChartBaseline], *, columns: int = 60, rows: int = 12) -> tuple[Raster, Raster]:
    """Return the chart without the lines and with them."""
    series = chart_series(state, "train_loss", "steps", columns=columns * 2)
    assert isinstance(series, ChartSeries)
    before, after = (raster(series, columns, rows, grid=[4.0, 6.0]) for _ in range(2))
    draw_baselines(after, series, lines)
    return before, after


def text_of(picture: Raster) -> list[str]:
    return ["".join(text for text, _ in picture.runs(row)) for row in range(len(picture.characters))]


def test_bits_per_byte_and_nats_per_token_are_converted_by_the_bytes_per_token():
    xz = next(line for line in baselines_of(EVENT) if line.name == "xz")
    assert xz.bits_per_byte == 2.466
    assert xz.nats_per_token == pytest.approx(2.466 * np.log(2) * 2.9037)


def test_the_line_of_text_names_every_baseline():
    expected = (
        "loss without a model: guessing: 8.030; token frequencies: 6.289; xz: 4.963 (2.466 bits per byte); "
        "PPMd: 3.899 (1.937 bits per byte)"
    )
    assert baselines_text(EVENT) == expected
    assert news(EVENT, RunState()) == [(expected, "dim")]
    part = BaselinesMeasured(6, 8.03, 6.289, 2.9037, {"xz": 2.466}, 1 << 20)
    assert baselines_text(part).endswith("xz: 4.963 (2.466 bits per byte), of the first 1.0 MB of the eval text")


def test_each_chart_has_the_baselines_in_its_unit():
    assert [line.label for line in chart_baselines(EVENT, "train_loss")][:2] == [
        "guessing 8.030",
        "token frequencies 6.289",
    ]
    assert chart_baselines(EVENT, "perplexity")[0].y == pytest.approx(np.exp(8.03))
    assert chart_baselines(EVENT, "bits_per_byte")[2] == ChartBaseline("xz 2.466", 2.466)
    assert chart_baselines(EVENT, "grad_norm") == chart_baselines(None, "train_loss") == []


def test_lines_and_labels_replace_only_empty_characters_and_the_grid():
    lines = [ChartBaseline(f"line {y}", y) for y in (3.0, 3.5, 4.5, 5.5, 6.5)]
    before, after = plotted(trained(1000), lines)
    changed = (before.characters != after.characters) | (before.layers != after.layers)
    assert changed.any()
    assert set(np.unique(before.layers[changed]).tolist()) <= {0, GRID}


def test_a_line_inside_the_range_has_its_label_at_the_right():
    _, picture = plotted(trained(1000), [ChartBaseline("token frequencies 6.289", 6.289)])
    (row,) = [row for row in text_of(picture) if "token frequencies 6.289" in row]
    assert row.rstrip().endswith("token frequencies 6.289")
    assert "⠉" in row or "⠒" in row or "⠤" in row or "⣀" in row


def test_above_the_range_there_is_nothing_and_below_it_one_label_without_a_line():
    _, picture = plotted(trained(1000), [ChartBaseline("guessing 8.030", 8.03)])
    assert not (picture.layers == BASELINE).any()
    _, picture = plotted(trained(1000), [ChartBaseline("xz 2.000", 2.0), ChartBaseline("PPMd 1.500", 1.5)], columns=120)
    assert not any("PPMd" in row for row in text_of(picture))
    rows = {int(row) for row in np.nonzero(picture.layers == BASELINE)[0]}
    assert rows <= {len(picture.characters) - 1}


def test_lines_in_one_row_do_not_overlap():
    _, picture = plotted(trained(1000), [ChartBaseline("first 6.30", 6.3), ChartBaseline("second 6.29", 6.29)])
    rows = [row for row in text_of(picture) if "first" in row or "second" in row]
    assert len(rows) == 1
    assert "second" not in rows[0]


def test_a_chart_without_room_for_the_label_has_no_line():
    _, picture = plotted(trained(1000), [ChartBaseline("token frequencies 6.289", 6.289)], columns=12)
    assert not (picture.layers == BASELINE).any()


def test_a_resumed_run_shows_the_baselines_in_its_log(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(to_json(EVENT) + b"\n")
    assert from_json(to_json(EVENT)) == EVENT
    assert replay_log(RunState(), log, 100).baselines == EVENT
    assert replay_log(RunState(), log, 3).baselines is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_the_baselines_of_a_run_are_labeled_and_the_key_hides_them(
    monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, size: tuple[int, int]
):
    async with still_app(monkeypatch, RUN, Phase.TRAINING, size) as (app, pilot):
        assert "token frequencies 6.289" in screen_text(app)
        snapshot(app, f"baselines-{size[0]}x{size[1]}")
        await pilot.press("b")
        await settled(app, pilot)
        assert "token frequencies" not in app.main.train.charts.exported()["train_loss.svg"]
