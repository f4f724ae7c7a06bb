"""Training on several machines over slow networks: measured and predicted, and the picture several_machines.svg.

    python benchmarks/several_machines.py [--ranks 2 4] [--steps N] [--json]
    python benchmarks/several_machines.py --processor-time

The second command only predicts, from processor time on one core and the nominal rates, for a machine with other load.

The first one needs root, Linux, mpi4py and MPICH. Each machine is a network namespace with a link of its own to a
bridge. The token bucket of `tc` limits the rate of each link in both directions; a delay is injected into each
collective operation. The namespaces share the cores of this machine: every rank computes on one thread, bound to one
core. Its prediction takes work and overlap from the unlimited network, and latency and bandwidth from each network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from math import log2
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from gpt_core.bench.exchange import FORMATS, ExchangeBenchmark, MeasuredStep, Step, measure_exchange
from gpt_core.bench.hardware import processor_name
from gpt_core.bench.scaling import BYTES, RANKS, Network, StepCosts, predict
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import SINGLE_PROCESS
from gpt_core.kernels import available_cores, threads
from gpt_core.training.gradient_sum import ExchangeFormat, GradientSum

HERE = Path(__file__).parent
PICTURE = HERE / "several_machines.svg"
TCP_ONLY = {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "eth0"}  # else ranks use shared memory, across namespaces, too
REPEATS = 9
NOMINAL_LATENCY_S = 1e-4
TCP_SHARE = 0.94  # of the rate of a link, with frames of 1,500 bytes
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
COLORS = {"float32": "#0072b2", "bfloat16": "#d55e00"}
DASHES = ("", "6,3", "2,3", "8,3,2,3")
WIDTH, HEIGHT, LEFT, TOP = 340, 240, 40, 34
LOWEST = 0.5  # ratio at the bottom of the picture

LAUNCHER = """#!/bin/sh
# agent with which mpiexec starts the ranks of a host: options, host, command
while [ "${{1#-}}" != "$1" ]; do shift; done
number=${{1##*.}}; shift
core=$(( (number - 1) % {cores} ))
exec ip netns exec {name}$number unshare --uts sh -c "hostname machine$number; exec taskset -c $core $*"
"""


class NetworkLimit(msgspec.Struct, frozen=True):
    """A network: its name, the rate for `tc` ("" for no limit), the injected delay, and the rate as a number."""

    name: str
    rate: str = ""
    delay_ms: float = 0.0
    bits_per_s: float = 0.0


NETWORKS = (
    NetworkLimit("unlimited"),
    NetworkLimit("1 Gbit/s", "1gbit", 0.0, 1e9),
    NetworkLimit("1 Gbit/s, 1 ms", "1gbit", 1.0, 1e9),
    NetworkLimit("100 Mbit/s", "100mbit", 0.0, 1e8),
)


class Predicted(msgspec.Struct, frozen=True):
    """Inputs of the predicted throughput on a network, with MAX_MICRO_BATCHES per step."""

    network: str
    shape: str
    format: str
    costs: StepCosts
    link: Network


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


class Loopback:
    """Rank 0 of two ranks without a network: what it receives is what it sends, copied once."""

    rank, hosts, is_first_on_host = 0, ("", ""), True

    def gather(self, values: Any) -> Any:
        """Return the values as those of both ranks."""
        return np.stack([values, values])

    def exchange(self, sent: Any, _sent_counts: Sequence[int], received: Any, _counts: Sequence[int]) -> None:
        """Copy as many values as are received."""
        received[:] = np.resize(sent, len(received))

    def collect(self, part: Any, whole: Any, _counts: Sequence[int]) -> None:
        """Copy as many values as all ranks have."""
        whole[:] = np.resize(part, len(whole))


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
    """Create the namespaces and their links within the `with` block, in place of those that a killed run has left."""
    remove_machines(count)
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
        remove_machines(count)


def remove_machines(count: int) -> None:
    """Remove the namespaces, their links and the bridge, where they exist."""
    for number in range(1, count + 1):
        subprocess.run(["ip", "netns", "del", f"{NAME}{number}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"{NAME}v{number}"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


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
            env=os.environ | TCP_ONLY | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
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


def processor_seconds(action: Callable[[], Any]) -> float:
    """Return the median processor time of a call, after one to warm up."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        action()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds[1:])


def costs_of(settings: Settings, format: ExchangeFormat) -> tuple[StepCosts, float]:
    """Return the costs of a step, and the work per gradient of an exchange, in processor time of one core."""
    threads.set_threads(1)
    step = Step(settings, SINGLE_PROCESS)
    pass_s = processor_seconds(lambda: step.take_pass(0, step.gradients, None))
    sums = GradientSum(step.gradients, 2, Loopback(), format)  # type: ignore[arg-type]
    work_s = processor_seconds(lambda: sums.of_step(lambda *_: 0.0))
    costs = step.costs(pass_s, processor_seconds(step.update), BYTES[format])
    return costs, work_s / costs.values


def predicted_rows() -> Iterator[Predicted]:
    """Yield a prediction per shape, network and format."""
    for shape, settings in SHAPES.items():
        for format in FORMATS:
            costs, work_s = costs_of(settings, format)
            costs = with_largest_batch(costs)
            for network in NETWORKS[1:]:
                latency_s = NOMINAL_LATENCY_S + network.delay_ms / 1e3
                here = Network(latency_s, TCP_SHARE * network.bits_per_s / 8, work_s)
                yield Predicted(network.name, shape, format, costs, here)


def predicted_table(rows: Sequence[Predicted]) -> list[str]:
    """Return the predicted speed-ups as Markdown."""
    head = " | ".join(f"{ranks} machines" for ranks in RANKS)
    lines = [f"| shape | network | exchange | ms per step of one | {head} |", "| --- " * (4 + len(RANKS)) + "|"]
    for row in limited(rows):
        ratios = " | ".join(f"{ratio:.2f} ×" for ratio in speedups(row)[1:])
        step_ms = predict(row.costs, row.link, 1).step_s * 1e3
        lines.append(f"| {row.shape} | {row.network} | {row.format} | {step_ms:,.0f} | {ratios} |")
    return lines


def limited(rows: Sequence[Predicted]) -> list[Predicted]:
    """Return the rows of networks with a limited rate."""
    return [row for row in rows if row.network != NETWORKS[0].name]


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


def with_largest_batch(costs: StepCosts) -> StepCosts:
    """Return the costs of a step with MAX_MICRO_BATCHES."""
    times = MAX_MICRO_BATCHES // costs.micro_batches
    return replace(costs, tokens=costs.tokens * times, micro_batches=costs.micro_batches * times)


def prediction_of(row: Row) -> Predicted:
    """Return what the throughput on the network of a measured step follows from."""
    costs = with_largest_batch(row.step.costs)
    return Predicted(row.network, row.shape, row.step.format, costs, row.step.network)


def speedups(row: Predicted) -> list[float]:
    """Return the predicted throughput on 1 and on RANKS machines, over that of one."""
    alone = predict(row.costs, row.link, 1).tokens_per_s
    return [predict(row.costs, row.link, ranks).tokens_per_s / alone for ranks in (1, *RANKS)]


def picture(rows: Sequence[Predicted]) -> str:
    """Return the predicted speed-up over the number of machines as SVG: a panel per shape, a line per network."""
    shown = limited(rows)
    parts = []
    for panel, shape in enumerate(SHAPES):
        x0, bottom = LEFT + panel * (WIDTH + LEFT), TOP + HEIGHT
        scale = (WIDTH - LEFT) / log2(RANKS[-1]), HEIGHT / log2(RANKS[-1] / LOWEST)
        of_one = bottom - scale[1] * log2(1 / LOWEST)
        parts.append(
            f'<text x="{x0}" y="{TOP - 18}" font-weight="bold">{shape}: times the tokens/s of one machine</text>'
            f'<path d="M{x0},{TOP}V{bottom}H{x0 + WIDTH - LEFT}" fill="none" stroke="#888"/>'
            f'<path d="M{x0},{of_one:.1f}H{x0 + WIDTH - LEFT}" fill="none" stroke="#ccc"/>'
        )
        for ranks in (1, *RANKS):
            x, y = x0 + scale[0] * log2(ranks), of_one - scale[1] * log2(ranks)
            parts.append(f'<text x="{x:.0f}" y="{bottom + 14}" text-anchor="middle">{ranks}</text>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end">{ranks}</text>')
        for row in (row for row in shown if row.shape == shape):
            points = " ".join(
                f"{x0 + scale[0] * log2(ranks):.1f},{of_one - scale[1] * log2(max(LOWEST, value)):.1f}"
                for ranks, value in zip((1, *RANKS), speedups(row), strict=True)
            )
            dash = DASHES[[network.name for network in NETWORKS].index(row.network) - 1]
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{COLORS[row.format]}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/>'
            )
    for number, (format, color) in enumerate(COLORS.items()):
        for line, (network, dash) in enumerate(zip(NETWORKS[1:], DASHES, strict=False)):
            x, y = LEFT + number * (WIDTH + LEFT), TOP + HEIGHT + 36 + 16 * line
            parts.append(
                f'<path d="M{x},{y - 4}h30" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
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
    parser.add_argument("--processor-time", action="store_true", help="only predict")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rank", metavar="SHAPE", help=argparse.SUPPRESS)
    parser.add_argument("--delay", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        run_rank(options.rank, options.steps, options.delay)
        return
    if options.processor_time:
        expected = list(predicted_rows())
        PICTURE.write_text(picture(expected), encoding="utf-8")
        print("\n".join([f"{processor_name()}\n", *predicted_table(expected)]))
        return
    rows = list(rows_of(options.ranks, options.steps))
    expected_rows = [prediction_of(row) for row in rows if row.ranks == options.ranks[0]]
    PICTURE.write_text(picture(expected_rows), encoding="utf-8")
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return
    print(f"{rows[0].found.processor}, {available_cores()} cores\n")
    print("\n".join([*table(rows), "", *predicted_table(expected_rows)]))


if __name__ == "__main__":
    main()
