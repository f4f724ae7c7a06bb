"""Training on several machines over slow networks: measured and predicted, and the picture several_machines.svg.

    python benchmarks/several_machines.py [--ranks 2 4] [--steps N] [--json]

Needs root, Linux, mpi4py and MPICH. Each machine is a network namespace with a link of its own to a bridge. The token
bucket of `tc` limits the rate of each link in both directions; a delay is injected into each collective operation. The
namespaces share the cores of this machine: every rank computes on one thread, bound to one core.

The prediction takes work and overlap from the unlimited network, and latency and bandwidth from each network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from math import log2
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from gpt_core.bench.exchange import ExchangeBenchmark, MeasuredStep, measure_exchange
from gpt_core.bench.scaling import RANKS, predict, with_larger_batch
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.kernels import available_cores

HERE = Path(__file__).parent
BRIDGE, ADDRESS, NAME = "gpttuibr", "10.77.0", "gpttui"
GATEWAY = f"{ADDRESS}.254"
SHAPES = {
    "nano": replace(preset("nano"), batch_size=16, micro_batch_size=2),
    "middle": Settings(
        d_model=256, hidden_size=1024, vocab_size=4096, num_heads=4, seq_len=256, layers=4, batch_size=8,
        micro_batch_size=1,
    ),
}  # fmt: skip
MAX_MICRO_BATCHES = 64  # of the predicted step
COLOURS = {"float32": "#0072b2", "bfloat16": "#d55e00"}
DASHES = ("", "6,3", "2,3", "8,3,2,3")
WIDTH, HEIGHT, LEFT, TOP = 340, 240, 40, 34

LAUNCHER = """#!/bin/sh
# agent with which mpiexec starts the ranks of a host: options, host, command
while [ "${{1#-}}" != "$1" ]; do shift; done
number=${{1##*.}}; shift
core=$(( (number - 1) % {cores} ))
exec ip netns exec {name}$number unshare --uts sh -c "hostname machine$number; exec taskset -c $core $*"
"""


class NetworkLimit(msgspec.Struct, frozen=True):
    """A network: its name, the rate for `tc` ("" for no limit), and the injected delay in milliseconds."""

    name: str
    rate: str = ""
    delay_ms: float = 0.0


NETWORKS = (
    NetworkLimit("unlimited"),
    NetworkLimit("1 Gbit/s", "1gbit"),
    NetworkLimit("1 Gbit/s, 1 ms", "1gbit", 1.0),
    NetworkLimit("100 Mbit/s", "100mbit"),
)


class Delayed:
    """Communicator whose collective operations take longer by a delay."""

    def __init__(self, ranks: Any, delay_s: float) -> None:
        self._ranks, self._delay_s = ranks, delay_s

    def __getattr__(self, name: str) -> Any:
        """Return a method or an attribute of the ranks; a method of the exchange after the delay."""
        found = getattr(self._ranks, name)
        if name not in ("exchange", "collect", "gather"):
            return found

        def call(*arguments: Any) -> Any:
            time.sleep(self._delay_s)
            return found(*arguments)

        return call


class Row(msgspec.Struct, frozen=True):
    """A measured step and its prediction."""

    network: str
    shape: str
    ranks: int
    found: ExchangeBenchmark
    step: MeasuredStep
    predicted_tokens_per_s: float


def run(*words: str) -> None:
    """Run a command, and show its output only if it fails."""
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{' '.join(words)}: {made.stderr.strip()}")


@contextlib.contextmanager
def machines(count: int, rate: str) -> Iterator[None]:
    """Create the namespaces and their links within the `with` block."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for number in range(1, count + 1):
            space, outer = f"{NAME}{number}", f"{NAME}v{number}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", outer, "master", BRIDGE, "up")
            run("ip", "-n", space, "addr", "add", f"{ADDRESS}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", space, "link", "set", device, "up")
            if rate:
                limit = ("root", "tbf", "rate", rate, "burst", "128kb", "latency", "50ms")
                run("tc", "qdisc", "add", "dev", outer, *limit)
                run("tc", "-n", space, "qdisc", "add", "dev", "eth0", *limit)
        yield
    finally:
        for number in range(1, count + 1):
            subprocess.run(["ip", "netns", "del", f"{NAME}{number}"], capture_output=True, check=False)
        run("ip", "link", "del", BRIDGE)


def measured(count: int, network: NetworkLimit, shape: str, steps: int) -> ExchangeBenchmark:
    """Return the benchmark of this many ranks, each on a machine of its own."""
    with machines(count, network.rate), tempfile.TemporaryDirectory() as folder:
        launcher = Path(folder, "launcher")
        launcher.write_text(LAUNCHER.format(cores=available_cores(), name=NAME))
        launcher.chmod(0o755)
        hosts = ",".join(f"{ADDRESS}.{number}" for number in range(1, count + 1))
        mpiexec = str(Path(sys.executable).parent / "mpiexec")
        words = [
            mpiexec, "-launcher", "ssh", "-launcher-exec", str(launcher), "-localhost", GATEWAY, "-hosts", hosts,
            "-ppn", "1", "-n", str(count), sys.executable, __file__, "--rank", shape, "--steps", str(steps),
            "--delay", str(network.delay_ms),
        ]  # fmt: skip
        made = subprocess.run(
            words, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if made.returncode:
        raise SystemExit(f"{network.name}, {shape}, {count} ranks: {made.stdout}{made.stderr}")
    return msgspec.json.decode(made.stdout.splitlines()[-1], type=ExchangeBenchmark)


def run_rank(shape: str, steps: int, delay_ms: float) -> None:
    """Measure as a rank that mpiexec has started; rank 0 prints the benchmark."""
    from gpt_core.distributed.launch import connect

    ranks = connect()
    settings = replace(SHAPES[shape], threads=1)
    found = measure_exchange(Delayed(ranks, delay_ms / 1e3), settings, repeats=steps)
    if ranks.rank == 0:
        print(msgspec.json.encode(found).decode(), flush=True)
    ranks.close()


def rows_of(counts: Sequence[int], steps: int) -> Iterator[Row]:
    """Yield a row per format, number of ranks, shape and network."""
    for shape in SHAPES:
        for count in counts:
            fast: list[MeasuredStep] = []
            for network in NETWORKS:
                found = measured(count, network, shape, steps)
                fast = fast or found.steps
                for step, first in zip(found.steps, fast, strict=True):
                    here = replace(first.network, latency_s=found.latency_s, bytes_per_s=found.bytes_per_s)
                    expected = predict(step.costs, here, count).tokens_per_s
                    yield Row(network.name, shape, count, found, step, expected)


def table(rows: Sequence[Row]) -> list[str]:
    """Return the table as Markdown."""
    lines = [
        "| shape | ranks | network | ms per message | MB/s | exchange | MB per step | ms per step | exchange ms "
        "| hidden | tokens/s | of one rank | predicted | error |",
        "| --- " * 14 + "|",
    ]
    for row in rows:
        step, found = row.step, row.found
        lines.append(
            f"| {row.shape} | {row.ranks} | {row.network} | {found.latency_s * 1e3:.2f} "
            f"| {found.bytes_per_s / 1e6:,.0f} | {step.format} | {step.sent_bytes / 1e6:.1f} "
            f"| {step.step_s * 1e3:,.0f} | {step.exchange_s * 1e3:,.0f} | {step.hidden_share:.0%} "
            f"| {step.tokens_per_s:,.0f} | {step.tokens_per_s / found.alone_tokens_per_s:.2f} × "
            f"| {row.predicted_tokens_per_s:,.0f} | {row.predicted_tokens_per_s / step.tokens_per_s - 1:+.0%} |"
        )
    return lines


def speedups(row: Row) -> list[float]:
    """Return the predicted throughput on 1 and on RANKS machines, over that of one, with MAX_MICRO_BATCHES."""
    costs = with_larger_batch(row.step.costs, MAX_MICRO_BATCHES // row.step.costs.micro_batches)
    alone = predict(costs, row.step.network, 1).tokens_per_s
    return [predict(costs, row.step.network, ranks).tokens_per_s / alone for ranks in (1, *RANKS)]


def picture(rows: Sequence[Row]) -> str:
    """Return the predicted speed-up over the number of machines as SVG: a panel per shape, a line per network."""
    shown = [row for row in rows if row.ranks == 2 and row.network != NETWORKS[0].name]
    parts = []
    for panel, shape in enumerate(SHAPES):
        x0, bottom = LEFT + panel * (WIDTH + LEFT), TOP + HEIGHT
        scale = (WIDTH - LEFT) / log2(RANKS[-1]), HEIGHT / log2(RANKS[-1])
        parts.append(
            f'<text x="{x0}" y="{TOP - 18}" font-weight="bold">{shape}: times the tokens/s of one machine</text>'
            f'<path d="M{x0},{TOP}V{bottom}H{x0 + WIDTH - LEFT}" fill="none" stroke="#888"/>'
        )
        for ranks in (1, *RANKS):
            x, y = x0 + scale[0] * log2(ranks), bottom - scale[1] * log2(ranks)
            parts.append(f'<text x="{x:.0f}" y="{bottom + 14}" text-anchor="middle">{ranks}</text>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end">{ranks}</text>')
        for row in (row for row in shown if row.shape == shape):
            points = " ".join(
                f"{x0 + scale[0] * log2(ranks):.1f},{bottom - scale[1] * max(-0.5, log2(value)):.1f}"
                for ranks, value in zip((1, *RANKS), speedups(row), strict=True)
            )
            dash = DASHES[[network.name for network in NETWORKS].index(row.network) - 1]
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{COLOURS[row.step.format]}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/>'
            )
    for number, (format, colour) in enumerate(COLOURS.items()):
        for line, (network, dash) in enumerate(zip(NETWORKS[1:], DASHES, strict=False)):
            x, y = LEFT + number * (WIDTH + LEFT), TOP + HEIGHT + 36 + 16 * line
            parts.append(
                f'<path d="M{x},{y - 4}h30" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
                f'<text x="{x + 36}" y="{y}">{network.name}, exchange in {format}</text>'
            )
    width, height = len(SHAPES) * (WIDTH + LEFT) + LEFT, TOP + HEIGHT + 36 + 16 * len(NETWORKS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="11" fill="#333">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main() -> None:
    """Measure, print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2], help="numbers of ranks (default: 2)")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per format, after a warm-up")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rank", metavar="SHAPE", help=argparse.SUPPRESS)
    parser.add_argument("--delay", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        run_rank(options.rank, options.steps, options.delay)
        return
    rows = list(rows_of(options.ranks, options.steps))
    (HERE / "several_machines.svg").write_text(picture(rows), encoding="utf-8")
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return
    print(f"{rows[0].found.processor}, {available_cores()} cores\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
