"""Cost of a training step over context length, batch size, layers and threads: a table, and the picture scaling.svg.

    python benchmarks/scaling.py [--steps N] [--processor-time] [--json]

Each point is a separate process (`own_steps.py`) on a medium shape with one dimension changed. The curves of GFLOP/s
should have no abrupt drop.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import msgspec
from training import run

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import available_cores
from gpt_core.model.flops import step_flops

HERE = Path(__file__).parent
SHAPE = ModelShape(d_model=256, hidden_size=1024, vocab_size=4096, num_heads=4, seq_len=256, layers=4)
BATCH = 4
SERIES = {
    "context T, B=1": ("seq_len", (64, 128, 256, 512, 1024, 2048, 4096)),
    "batch B, T=256": ("batch", (1, 2, 4, 8, 16, 32)),
    "layers L": ("layers", (1, 2, 4, 8, 16)),
    "threads": ("threads", tuple(range(1, available_cores() + 1))),
}
WIDTH, HEIGHT, MARGIN, ROW = 260, 150, 44, 190  # of one plot in the picture, and from row to row
SHOWN = (("1,000 tokens/s", "tokens_per_s", 1000), ("GFLOP/s", "gflop_per_s", 1), ("peak GB", "peak_gb", 1))


class Point(msgspec.Struct, frozen=True):
    """Figures of one run. `gflop_per_s` counts the model's arithmetic (`gpt_core.model.flops`)."""

    value: int
    tokens_per_s: float
    gflop_per_s: float
    peak_gb: float


def measured(name: str, value: int, steps: int, processor_time: bool) -> Point:
    """Measure the median step with one number changed."""
    shape = msgspec.structs.replace(SHAPE, **{name: value}) if name in SHAPE.__struct_fields__ else SHAPE
    batch = {"batch": value, "seq_len": 1}.get(name, BATCH)
    threads = value if name == "threads" else 1 if processor_time else available_cores()
    words = ["--processor_time"] if processor_time else []
    made = run(sys.executable, "own_steps.py", shape, batch, steps, threads, *words)
    seconds = statistics.median(made["seconds"])
    operations = step_flops(shape, batch, shape.seq_len).total
    return Point(value, batch * shape.seq_len / seconds, operations / seconds / 1e9, made["peak_bytes"] / 1e9)


def plot(title: str, names: list[int], heights: list[float], left: int, top: int) -> str:
    """Return one panel of the picture: values from 0 up over the changed number."""
    highest = max(heights)
    spread = max(1, len(names) - 1)
    bottom = top + HEIGHT
    places = [
        (left + MARGIN + (WIDTH - 2 * MARGIN) * i / spread, bottom - (HEIGHT - 24) * height / highest)
        for i, height in enumerate(heights)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [
        f'<text x="{left + MARGIN}" y="{top + 14}" font-weight="bold">{title}</text>',
        f'<text x="{left + 28}" y="{top + 28}" text-anchor="end">{highest:,.3g}</text>'
        f'<text x="{left + 28}" y="{bottom}" text-anchor="end">0</text>',
        f'<path d="M{left + 32},{top + 24}V{bottom}H{left + WIDTH - 8}" fill="none" stroke="#888"/>',
        f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>',
    ]
    for (x, y), name in zip(places, names, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0072b2"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{name}</text>')
    return "\n".join(parts)


def picture(series: dict[str, list[Point]]) -> str:
    """Return the picture as SVG: a row of panels per measured quantity, a column per changed number."""
    panels = [
        plot(f"{what}: {title}", [p.value for p in points], [getattr(p, field) / unit for p in points], WIDTH * i, row)
        for row, (what, field, unit) in zip(range(0, 3 * ROW, ROW), SHOWN, strict=True)
        for i, (title, points) in enumerate(series.items())
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(series)}" height="{ROW * len(SHOWN)}" '
        'font-family="sans-serif" font-size="11" fill="#333">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def main() -> None:
    """Measure, print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="measured steps per point, after one warm-up step")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="measure processor time on one thread, for a machine with other load",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    series = {
        title: [measured(name, value, options.steps, options.processor_time) for value in values]
        for title, (name, values) in SERIES.items()
        if not (options.processor_time and name == "threads")
    }
    (HERE / "scaling.svg").write_text(picture(series), encoding="utf-8")
    if options.json:
        print(msgspec.json.encode(series).decode())
        return
    for title, points in series.items():
        print(f"\n| {title} | tokens/s | GFLOP/s | peak memory |\n| --- | --- | --- | --- |")
        for point in points:
            print(f"| {point.value:,} | {point.tokens_per_s:,.0f} | {point.gflop_per_s:.0f} | {point.peak_gb:.2f} GB |")


if __name__ == "__main__":
    main()
