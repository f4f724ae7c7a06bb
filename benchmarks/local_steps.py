"""Learning with local steps on several ranks beside synchronous training, at equal tokens, from one seed.

    python benchmarks/local_steps.py [--steps 1200] [--ranks 2 4] [--every 20 100] [--set KEY=VALUE] [--grid]

Trains `nano` on the text that ships with the project, each run in a temporary folder under `mpiexec` with one thread
per rank, and prints bits per byte of the held-out end of that text, with the difference to the synchronous run. It
does not depend on the load of the machine. With --grid, each combination of OUTER is trained for the first number of
ranks, instead of the defaults.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gpt_core.bench.hardware import processor_name
from gpt_core.config.settings import Settings
from gpt_core.errors import install_hint
from gpt_core.kernels import LEVEL
from gpt_core.training.events import EvalCompleted, ExchangeMeasured, FullEvalCompleted
from gpt_core.training.metrics_log import read_metrics

ROOT = Path(__file__).parents[1]
OUTER = tuple(itertools.product((0.5, 0.7, 1.0), (0.0, 0.5, 0.9)))  # outer_lr, outer_momentum
EVALUATIONS = 4
MIN_MICRO_BATCH = 4


def trained(ranks: int, values: dict[str, object], options: argparse.Namespace) -> tuple[list[float], float]:
    """Train a run, and return bits per byte at each evaluation, and the bytes that rank 0 sends per step.

    The last evaluation is that of the complete held-out text, the others are of a part of it.
    """
    settings: dict[str, object] = {
        "hold_out": True, "micro_batch_size": MIN_MICRO_BATCH, "max_steps": options.steps, "decay_steps": options.steps,
        "eval_every_steps": options.steps // EVALUATIONS, "seed": options.seed, "threads": 1, "precision": "float32",
        "sample_tokens": 0, "save_every_minutes": 0, "patience": 0, "train_file": ROOT / "data" / "raw" / "train.en",
    }  # fmt: skip
    assignments = [f"{name}={value}" for name, value in (settings | values).items()] + options.set
    launcher = [mpiexec(), "-n", str(ranks)] if ranks > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [*launcher, sys.executable, "-m", "gpt_tui", "--train-only", "--json", "--preset", options.preset,
             "--models-dir", folder, *(word for pair in assignments for word in ("--set", pair))],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if run.returncode:
            sys.exit(f"a run failed: {run.stderr}")
        events = list(read_metrics(Path(folder, "metrics.jsonl")))
    every = options.steps // EVALUATIONS  # others are at the end of an epoch
    scores = [event.bits_per_byte for event in events if isinstance(event, EvalCompleted) and event.step % every == 0]
    scores += [event.bits_per_byte for event in events if isinstance(event, FullEvalCompleted)][-1:]
    sent = [event.sent_bytes / event.steps for event in events if isinstance(event, ExchangeMeasured)]
    return scores, sent[-1] if sent else 0.0


def mpiexec() -> str:
    """Return the path of mpiexec, beside this Python if it is there."""
    found = shutil.which("mpiexec", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if found is None:
        sys.exit(f"mpiexec was not found; {install_hint('mpi')}")
    return found


def show(name: str, scores: Sequence[float], sent: float, reference: float) -> None:
    """Print a row of the table."""
    figures = " | ".join(f"{score:.4f}" for score in scores)
    print(f"| {name} | {figures} | {scores[-1] - reference:+.4f} | {sent / 1e6:.2f} |", flush=True)


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--every", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more settings of all runs")
    parser.add_argument("--grid", action="store_true", help="try each combination of OUTER on the first of --ranks")
    options = parser.parse_args()
    print(f"{processor_name()}, kernels for {LEVEL}; {options.preset}, {options.steps:,} steps, seed {options.seed}")
    steps = [options.steps * part // EVALUATIONS for part in range(1, EVALUATIONS + 1)]
    columns = [f"step {step:,}" for step in steps]
    print(f"| run | {' | '.join(columns)} | all of the text | difference | MB per step |")
    print("| --- |" + " --- |" * (len(steps) + 3))
    scores, sent = trained(options.ranks[0], {}, options)
    reference = scores[-1]
    show(f"synchronous, {options.ranks[0]} ranks", scores, sent, reference)
    defaults = [(Settings().outer_lr, Settings().outer_momentum)]
    for ranks, every in itertools.product(options.ranks[:1] if options.grid else options.ranks, options.every):
        for lr, momentum in OUTER if options.grid else defaults:
            values = {"sync_every_steps": every, "outer_lr": lr, "outer_momentum": momentum}
            name = f"{ranks} ranks, N = {every}" + (f", outer {lr:g}, {momentum:g}" if options.grid else "")
            show(name, *trained(ranks, values, options), reference)


if __name__ == "__main__":
    main()
