"""`gpt-tui bench`: throughput of training and generation, and a profile of a training step."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from gpt_core.bench.benchmark import run_benchmark
from gpt_core.bench.result import Benchmark, Part, Training
from gpt_core.errors import EXIT_OK, InputError
from gpt_tui.cli.bench_mpi import bench_mpi, rate_text
from gpt_tui.cli.options import refuse_run_length, report_text_note, resolve_settings
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.formatting import counted, integer, percent, short, size
from gpt_tui.shared.sanitize import one_line

# rows of the table: a phase and its parts
PHASES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("data: reading the batch", (("", "data"),)),
    ("embedding", (("", "embedding"),)),
    ("norms", (("", "norms"),)),
    ("attention", (("linear layers", "attention_linears"), ("scores and values", "attention_scores"))),
    ("mlp", (("linear layers", "mlp_linears"), ("activation", "activation"))),
    ("dropout", (("", "dropout"),)),
    ("loss and logits", (("", "loss"),)),
    ("optimizer and clipping", (("", "optimizer"),)),
    ("rest: Python, zeroing, logging", (("", "rest"),)),
)
LIMIT_NAMES = {"float32": "of SGEMM", "bfloat16": "of bfloat16"}  # heading of the last column
NAME_WIDTH = max(len(name) for name, _ in PHASES)


def bench(options: Namespace) -> int:
    """Run `gpt-tui bench`: print a table or one JSON object; with `--mpi`, of several ranks."""
    if options.steps is not None and options.steps < 1:
        raise InputError(f"got --steps {options.steps}, expected at least 1")
    refuse_run_length(options, "bench trains in a temporary folder")
    resolved = resolve_settings(options)
    if options.mpi:
        return bench_mpi(options, resolved.settings)
    report_text_note(resolved.settings)
    with ProgressLine() as waiting:
        found = run_benchmark(resolved.settings, steps=options.steps or 0, progress=waiting)
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join(report(found)))
    return EXIT_OK


def report(found: Benchmark) -> list[str]:
    """Return the lines of the report."""
    machine, training = found.machine, found.training
    limit, limit_name = training.product_gflop_per_s, LIMIT_NAMES[training.precision]
    bfloat16 = f"{limit:.0f} GFLOP/s (bfloat16 products), " if training.precision == "bfloat16" else ""
    at_once = "" if found.micro_batch_size == found.batch_size else f", {found.micro_batch_size} per micro-batch"
    measured = (
        f"median of {training.steps} steps, {training.fastest_s * 1e3:,.1f} to {training.slowest_s * 1e3:,.1f} ms"
    )
    if training.steps == 1:
        measured = f"1 step of {training.step_s * 1e3:,.1f} ms"
    return [
        one_line(
            f"{machine.processor}: {counted(machine.threads, 'thread')} on {counted(machine.cores, 'core')}, "
            f"kernels for {machine.level}"
        ),
        f"machine limits: {machine.sgemm_gflop_per_s:.0f} GFLOP/s (SGEMM), {bfloat16}"
        f"{machine.read_gb_per_s:.1f} GB/s (memory reads)",
        "",
        f"{found.preset}: {short(found.parameters)} parameters; a step is {found.batch_size} x "
        f"{integer(found.time)} tokens{at_once}; products in {training.precision}",
        "",
        f"{'part of a step':<{NAME_WIDTH}}  {'ms':>9}  {'share':>6}  {'GFLOP/s':>7}  {limit_name:>11}",
        *phase_lines(training, limit),
        line("one step", training.step_s, 1.0, training.gflop, limit),
        "",
        f"training  {rate_text(training.tokens_per_s)} tokens/s ({measured}; profiling overhead "
        f"{percent(training.timing_share)})",
        f"prompt    {rate_text(found.prompt.tokens_per_s)} tokens/s ({counted(found.prompt.tokens, 'token')}; "
        f"{found.prompt.gflop_per_s:.1f} GFLOP/s, {percent(found.prompt.sgemm_share)} of SGEMM)",
        f"decoding  {rate_text(found.decoding.tokens_per_s)} tokens/s ({found.decoding.weights} weights, "
        f"{size(found.decoding.bytes_per_token)} read per token; {found.decoding.gb_per_s:.1f} GB/s, "
        f"{percent(found.decoding.read_share)} of the memory bandwidth"
        f"{', from the caches' if found.decoding.read_share > 1 else ''})",
        memory_line(found),
    ]


def phase_lines(training: Training, limit: float) -> list[str]:
    """Return the rows of the table, without dropout where there is none."""
    parts = {part.part: part for part in training.parts}
    lines = []
    for phase, members in PHASES:
        if phase == "dropout" and parts["dropout"].seconds == 0:
            continue
        rows = [(name, parts[part]) for name, part in members]
        lines.append(part_line(phase, [part for _, part in rows], limit))
        if len(rows) > 1:
            lines += [part_line(f"  {name}", [part], limit) for name, part in rows]
    return lines


def part_line(name: str, parts: list[Part], limit: float) -> str:
    """Return the row for a group of parts."""
    seconds, share, gflop = (
        sum(values) for values in zip(*((p.seconds, p.share, p.gflop) for p in parts), strict=True)
    )
    return line(name, seconds, share, gflop, limit)


def line(name: str, seconds: float, share: float, gflop: float, limit: float) -> str:
    """Return a row; parts without matrix products have no GFLOP/s. `limit` is in GFLOP/s."""
    row = f"{name:<{NAME_WIDTH}}  {seconds * 1e3:>9,.2f}  {percent(share):>6}"
    if gflop and seconds > 0:
        rate = gflop / seconds
        row += f"  {rate:>7.1f}  {percent(rate / limit):>11}"
    return row


def memory_line(found: Benchmark) -> str:
    """Return the line about peak memory."""
    memory = found.memory
    known = f"{size(memory.weights)} weights, gradients and optimizer state; {size(memory.activations)} activations"
    if memory.peak is None:
        return f"memory    {known}"
    return f"memory    {size(memory.peak)} peak ({known}; the rest is the program)"
