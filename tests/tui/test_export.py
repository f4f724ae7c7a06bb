"""Export of charts and samples into the run's folder."""

from __future__ import annotations

import csv
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.cells import cell_len

from gpt_core.training.metrics import metric
from gpt_tui.charts.axes import y_axis
from gpt_tui.charts.chart import Chart
from gpt_tui.charts.export import WIDTH, chart_lines, curve_csv, overlay_csv, overlay_lines, samples_markdown, svg
from gpt_tui.charts.overlay import MAX_RUNS, NamedRun, combined_range, overlay_series
from gpt_tui.charts.series import chart_series
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.new_files import write_new
from gpt_tui.shared.svg_converter import as_png
from gpt_tui.shared.theme import DAY, NIGHT, own_variables
from tests.tui.samples import learned, sampled, scored, started, trained
from tests.tui.still_app import still_app

pytestmark = pytest.mark.slow

COLORS = NIGHT.to_color_system().generate() | own_variables(NIGHT)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(history: RunState, name: str) -> ElementTree.Element:
    series = chart_series(history, name, "steps", columns=1200)
    assert series is not None
    lines = chart_lines(series, metric(name), COLORS)
    return ElementTree.fromstring(svg(series, y_axis(series, 16), "steps", "a & b", lines, COLORS))


@pytest.mark.essential
@pytest.mark.parametrize("name", ["train_loss", "perplexity", "learning_rate", "grad_norm", "accuracy"])
def test_an_exported_chart_is_a_valid_svg_with_its_lines(name: str) -> None:
    root = drawn(learned(), name)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"a & b", "step", "200", "400"} <= set(texts)
    assert len(list(root.iter(f"{SVG}circle"))) == (5 if name in ("train_loss", "perplexity", "accuracy") else 0)
    for path in root.iter(f"{SVG}path"):
        assert "nan" not in path.attrib["d"]
        assert "inf" not in path.attrib["d"]


def test_losses_that_are_not_finite_are_gaps_of_an_exported_line() -> None:
    root = drawn(trained(100, lambda n: math.nan if 40 <= n < 60 else 3.0), "train_loss")
    assert max(path.attrib["d"].count("M") for path in root.iter(f"{SVG}path")) == 2
    assert drawn(trained(9, lambda n: math.inf if n == 5 else 1e300), "perplexity") is not None


@pytest.mark.essential
@pytest.mark.parametrize("name", ["models/lr-{}e-3-seed-1", "模型/" + "学" * 9 + "{}", "deep/" * 60 + "{}"])
def test_the_legend_of_an_exported_comparison_keeps_within_the_picture(name: str) -> None:
    runs = [NamedRun(number, name.format(number), learned()) for number in range(1, MAX_RUNS + 1)]
    window = combined_range(runs, "steps")
    series = overlay_series(runs, "train_loss", "steps", columns=1200, log=False, window=window)
    assert series is not None
    lines = overlay_lines(series, {run.number: run.name for run in runs}, COLORS)
    root = ElementTree.fromstring(svg(series, y_axis(series, 16), "steps", "a", lines, COLORS))
    labels = [element for element in root.iter(f"{SVG}text") if element.get("font-size") == "12"]
    assert [(element.text or "")[0] for element in labels] == [str(run.number) for run in runs]
    ends: dict[int, int] = {}  # of the last label per row
    for element in labels:
        x, y = int(element.attrib["x"]), int(element.attrib["y"])
        assert x > ends.get(y, 0)
        ends[y] = x + 7 * cell_len(element.text or "")
    assert len(ends) > 1
    assert max(ends.values()) <= WIDTH
    plot = root.find(f"{SVG}g")
    clip = root.find(f"{SVG}clipPath/{SVG}rect")
    assert plot is not None
    assert clip is not None
    below = int(plot.attrib["transform"].removeprefix("translate(0 ").removesuffix(")"))
    assert max(ends) < below + int(clip.attrib["y"])
    assert int(root.attrib["height"]) == below + 480 == int(root.attrib["viewBox"].split()[-1])


@pytest.mark.essential
@pytest.mark.parametrize("name", ["train_loss", "eval_loss"])
def test_the_csv_of_a_comparison_has_the_points_of_the_log(name: str) -> None:
    state = learned()
    rows = list(csv.DictReader(overlay_csv([NamedRun(1, "a", state)], metric(name)).splitlines()))
    assert list(rows[0]) == ["run", "step", "tokens", "seconds", name]
    if name == "eval_loss":
        assert [float(row[name]) for row in rows] == [point.loss for point in state.evaluations]
    else:
        curve = state.curve.rows()
        assert [int(row["step"]) for row in rows] == curve[:, 0].tolist()
        assert [int(row["tokens"]) for row in rows] == curve[:, 1].tolist()


def test_the_csv_has_every_step_and_the_evaluations() -> None:
    rows = list(csv.DictReader(curve_csv(learned(), metric("train_loss")).splitlines()))
    steps = [row for row in rows if row["smoothed"]]
    assert [int(row["step"]) for row in steps] == list(range(1, 651))
    assert float(steps[-1]["smoothed"]) == learned().curve.smoothed
    assert [int(row["step"]) for row in rows if row["evaluation"]] == [150, 300, 450, 600]
    assert float(rows[-1]["seconds"]) == 65.0


def test_samples_are_exported_as_code_blocks_that_their_text_cannot_close() -> None:
    state = advance_all(RunState(), [started(), sampled(0, " a ```` b\n```\nc\x1b[2J", "It was")])
    text = samples_markdown(state)
    assert "## Step 0" in text
    assert text.count("`````") == 2
    assert "\x1b" not in text


def test_exported_samples_have_the_scores_that_the_screen_shows() -> None:
    state = advance_all(RunState(), [started(), scored(1234, 0.5, 0.0123), sampled(1234, "a")])
    assert "## Step 1,234, eval loss 0.0123, accuracy 50.0%\n" in samples_markdown(state)


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    files = {"a.svg": "1", "a.csv": "2"}
    assert [path.name for path in write_new(tmp_path / "new", files)] == ["a.svg", "a.csv"]
    (tmp_path / "new" / "a-2.csv").write_text("mine")
    (tmp_path / "new" / "a-3.svg").symlink_to("nowhere")
    assert [path.name for path in write_new(tmp_path / "new", files)] == ["a-4.svg", "a-4.csv"]
    assert (tmp_path / "new" / "a-2.csv").read_text() == "mine"


def test_a_png_is_made_by_an_installed_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svg_file = tmp_path / "a.svg"
    svg_file.write_text("<svg/>")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert as_png(svg_file) is None
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "rsvg-convert"
    program.write_text('#!/bin/sh\necho png > "$2"\n')
    program.chmod(0o755)
    assert as_png(svg_file) == tmp_path / "a.png"
    assert as_png(svg_file) is None  # replaces no file


def test_an_incomplete_png_of_a_failed_converter_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svg_file = tmp_path / "a.svg"
    svg_file.write_text("<svg/>")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, script in (("rsvg-convert", 'echo cut > "$2"; exit 1'), ("resvg", '[ ! -e "$2" ] && echo png > "$2"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert as_png(svg_file) == tmp_path / "a.png"
    assert (tmp_path / "a.png").read_text() == "png\n"
    (tmp_path / "resvg").unlink()
    (tmp_path / "a.png").unlink()
    assert as_png(svg_file) is None
    assert not (tmp_path / "a.png").exists()


async def test_the_export_key_writes_the_charts_in_view_and_the_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    async with still_app(monkeypatch, learned(), Phase.PAUSED, (120, 40)) as (app, pilot):
        await pilot.press("m", "ctrl+e")
        await app.workers.wait_for_complete()
        await pilot.press("v", "ctrl+e")  # again, with other panels
        await app.workers.wait_for_complete()
        names = {path.name for path in (tmp_path / "models").iterdir()}
        first = {"train_loss.svg", "train_loss.csv", "learning_rate.svg", "learning_rate.csv", "samples.md"}
        assert first <= names
        assert {"train_loss-2.svg", "samples-2.md"} <= names
        said = [notification.message for notification in app._notifications]
        assert "samples.md" in said[0]
        assert said[0].endswith("in models")


@pytest.mark.parametrize("theme", ["gpt-night", "gpt-day", "ansi-dark"])
async def test_an_exported_chart_is_light_in_every_theme(monkeypatch: pytest.MonkeyPatch, theme: str) -> None:
    async with still_app(monkeypatch, learned(), Phase.PAUSED, (80, 24), theme=theme) as (app, _pilot):
        drawing = app.screen.query(Chart).first().exported()["train_loss.svg"]
        colors = set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawing)) - {"none"}
        assert {"#ffffff", DAY.primary.upper()} <= colors
        assert all(color.startswith("#") for color in colors)


async def test_an_export_into_a_file_is_reported_as_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").write_text("not a folder")
    async with still_app(monkeypatch, learned(), Phase.PAUSED, (80, 24)) as (app, pilot):
        await pilot.press("ctrl+e")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert [notification.title for notification in app._notifications] == ["not exported"]
