"""Export of charts as SVG and CSV, and of samples as Markdown. Does not import Textual."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from rich.cells import cell_len

from gpt_core.training.metrics import Metric
from gpt_tui.charts.axes import YAxis, linear_ticks, tick_labels, time_labels, time_ticks
from gpt_tui.charts.baselines import ChartBaseline
from gpt_tui.charts.overlay import NamedRun, OverlaySeries
from gpt_tui.charts.raster import row_of
from gpt_tui.charts.series import (
    LOSS_NAMES,
    Array,
    Axis,
    ChartSeries,
    Names,
    Plane,
    curve_of,
    is_averaged,
    is_evaluated,
    marks_of,
)
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.formatting import integer, nats, percent
from gpt_tui.shared.sanitize import printable
from gpt_tui.shared.spans import shortened_names

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 44, 44
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
LEGEND_ROW = 18  # height
SAMPLE, LABEL_CELL, LABEL_GAP = 24, 7, 18  # widths in the legend: colored line, cell of a label, space after it
NAME_CELLS = (PLOT_WIDTH - SAMPLE) // LABEL_CELL - 2  # of a run's name after its number
X_NAMES: dict[Axis, str] = {"steps": "step", "tokens": "tokens", "time": "time"}
CSV_HEADER = ("step", "tokens", "seconds", "lowest", "highest", "smoothed", "evaluation")


class SvgLine(NamedTuple):
    """A line of an SVG chart: its x and y values, color and width, and a label for the legend, "" for none."""

    x: Array
    y: Array
    color: str
    width: float
    label: str
    points: bool = False


def chart_lines(series: ChartSeries, shown: Metric, colors: Mapping[str, str]) -> list[SvgLine]:
    """Return the lines of a chart of one run, the later ones on top."""
    own = Names("per step", f"{shown.label} (smoothed)", shown.label)
    names = LOSS_NAMES.get(shown.name, own)
    lines = []
    if len(series.x):
        band = np.stack([series.low, series.high], axis=1).ravel()
        if not np.array_equal(series.high, series.smoothed, equal_nan=True):
            lines.append(SvgLine(np.repeat(series.x, 2), band, colors["faint"], 1, names.step))
        label = names.train if lines else shown.label
        lines.append(SvgLine(series.x, series.smoothed, colors["primary"], 2, label))
    if series.marks:
        x, y = (np.array(values) for values in ([m.x for m in series.marks], [m.y for m in series.marks]))
        lines.append(SvgLine(x, y, colors["mark"], 1.5, names.eval, points=True))
        best = [mark for mark in series.marks if mark.best]
        x, y = (np.array(values) for values in ([m.x for m in best], [m.y for m in best]))
        lines.append(SvgLine(x, y, colors["best"], 1.5, "best" if best else "", points=True))
    if series.induction_x is not None:
        x, y = np.full(2, series.induction_x), np.array(series.y_range)
        lines.append(SvgLine(x, y, colors["best"], 1, "first induction head"))
    return lines


def baseline_lines(plane: Plane, baselines: Sequence[ChartBaseline], colors: Mapping[str, str]) -> list[SvgLine]:
    """Return a line per baseline that is inside the y range."""
    x = np.array(plane.x_range)
    return [
        SvgLine(x, np.full(2, line.y), colors["muted"], 1, line.label)
        for line in baselines if plane.y_range.low <= line.y <= plane.y_range.high
    ]  # fmt: skip


def overlay_lines(series: OverlaySeries, names: Mapping[int, str], colors: Mapping[str, str]) -> list[SvgLine]:
    """Return a line per compared run; `names` are those of the runs, by number."""
    labels = shortened_names([names[line.number] for line in series.lines], NAME_CELLS)
    return [
        SvgLine(line.x, line.y, colors[f"run-{line.number}"], 2, f"{line.number} {label}", line.marked)
        for line, label in zip(series.lines, labels, strict=True)
    ]


def svg(plane: Plane, scale: YAxis, axis: Axis, title: str, lines: Sequence[SvgLine], colors: Mapping[str, str]) -> str:
    """Return a chart as an SVG document.

    Args:
        plane: The visible ranges.
        scale: Ticks of the y axis.
        axis: Quantity on the x axis.
        title: Title of the chart.
        lines: What is drawn.
        colors: The variables of the theme.
    """
    text, frame = f'fill="{colors["foreground"]}"', colors["frame"]
    legend, rows = _legend([line for line in lines if line.label], text)
    below = LEGEND_ROW * (rows - 1)  # what is below the first row of the legend moves down by this
    height = HEIGHT + below
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="{colors["background"]}"/>',
        f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"/></clipPath>',
        f'<text x="{LEFT}" y="20" {text} font-weight="bold">{_xml(title)}</text>',
        *legend,
        f'<g transform="translate(0 {below})">',
    ]
    for tick, label in zip(*scale, strict=True):
        y = TOP + float(row_of(tick, plane.y_range, PLOT_HEIGHT, plane.log))
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{frame}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" {text} text-anchor="end">{_xml(label)}</text>')
    for tick, label in _x_ticks(plane, axis):
        x = LEFT + (tick - plane.x_range.low) / plane.x_range.span * PLOT_WIDTH
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 24}" {text} text-anchor="middle">{_xml(label)}</text>')
    parts.append(
        f'<text x="{LEFT + PLOT_WIDTH / 2}" y="{HEIGHT - 6}" {text} text-anchor="middle">{X_NAMES[axis]}</text>'
    )
    parts += [f'<g clip-path="url(#plot)">{_path(plane, line)}</g>' for line in lines]
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _x_ticks(plane: Plane, axis: Axis) -> Iterable[tuple[float, str]]:
    if axis == "time":
        ticks = time_ticks(*plane.x_range, 8)
        return zip(ticks, time_labels(ticks), strict=True)
    ticks = linear_ticks(*plane.x_range, 8, min_step=1.0)
    return zip(ticks, tick_labels(ticks), strict=True)


def _path(plane: Plane, line: SvgLine) -> str:
    """Return a line as a path that is interrupted where there is no value, and its points as circles."""
    x = LEFT + (line.x - plane.x_range.low) / plane.x_range.span * PLOT_WIDTH
    y = TOP + np.clip(row_of(line.y, plane.y_range, PLOT_HEIGHT, plane.log), -1e5, 1e5)
    places, command = [], "M"
    for across, down in zip(x.tolist(), y.tolist(), strict=True):
        known = np.isfinite(down)
        if known:
            places.append(f"{command}{across:.1f} {down:.1f}")
        command = "L" if known else "M"
    style = f'fill="none" stroke="{line.color}" stroke-width="{line.width}" stroke-linejoin="round"'
    drawn = f'<path d="{"".join(places)}" {style}/>' if places else ""
    if line.points:
        drawn += "".join(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{line.color}"/>'
            for across, down in zip(x.tolist(), y.tolist(), strict=True) if np.isfinite(down)
        )  # fmt: skip
    return drawn


def _legend(lines: Sequence[SvgLine], text: str) -> tuple[list[str], int]:
    """Return the legend, and its number of rows: a label that would not fit begins a new one."""
    parts, x, row = [], LEFT, 0
    for line in lines:
        width = SAMPLE + LABEL_CELL * cell_len(printable(line.label))
        if x > LEFT and x + width > LEFT + PLOT_WIDTH:
            x, row = LEFT, row + 1
        y = 33 + LEGEND_ROW * row
        parts.append(f'<path d="M{x} {y}h18" stroke="{line.color}" stroke-width="3"/>')
        parts.append(f'<text x="{x + SAMPLE}" y="{y + 4}" {text} font-size="12">{_xml(line.label)}</text>')
        x += width + LABEL_GAP
    return parts, row + 1


def _xml(text: str) -> str:
    return escape(printable(text))


def curve_csv(state: RunState, shown: Metric) -> str:
    """Return the complete curve of a metric and its evaluations as CSV, ordered by step."""
    transform = shown.transform or (lambda value: value)
    rows: list[tuple[object, ...]] = [
        (int(step), int(tokens), seconds, transform(low), transform(high), transform(smoothed), "")
        for step, tokens, seconds, low, high, smoothed in curve_of(state, shown).rows().tolist()
    ]
    places = {point.step: (point.tokens, point.elapsed_s) for point in state.evaluations}
    for mark in marks_of(state, shown, "steps"):
        rows.append((int(mark.x), *places.get(int(mark.x), ("", "")), "", "", "", mark.y))
    return _csv(CSV_HEADER, sorted(rows, key=lambda row: int(str(row[0]))))


def overlay_csv(runs: Sequence[NamedRun], shown: Metric) -> str:
    """Return the complete curves of compared runs as CSV, one row per point: what `line_of` draws, not thinned."""
    transform = shown.transform or (lambda value: value)
    rows: list[tuple[object, ...]] = []
    for run in runs:
        if is_evaluated(shown):
            points = run.state.evaluations
            rows += [(run.name, point.step, point.tokens, point.elapsed_s, shown.read(point)) for point in points]
            continue
        for step, tokens, seconds, _, high, smoothed in curve_of(run.state, shown).rows().tolist():
            value = transform(smoothed if is_averaged(shown) else high)
            rows.append((run.name, int(step), int(tokens), seconds, value))
    return _csv(("run", "step", "tokens", "seconds", shown.name), rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def samples_markdown(state: RunState) -> str:
    """Return the samples of a run as Markdown: a heading per sample, prompt and text as a code block."""
    parts = ["# Samples\n"]
    for sample in state.samples:
        point = sample.evaluation
        score = f", eval loss {nats(point.loss)}, accuracy {percent(point.accuracy)}" if point else ""
        text = printable(sample.prompt + sample.text)
        longest = max((len(part) for part in text.replace("\n", " ").split(" ") if set(part) == {"`"}), default=0)
        fence = "`" * max(3, longest + 1)
        heading = f"## Step {integer(sample.step)}{score}\n\nPrompt: {printable(sample.prompt)}"
        parts.append(f"{heading}\n\n{fence}text\n{text}\n{fence}\n")
    return "\n".join(parts)
