"""Compare a run on one process with that on several ranks: `python -m tests.distributed.bits --steps 100`.

Prints the SHA-256 of losses, evaluations and samples, and that of weights and optimizer state, for every number of
ranks; and those of runs that are cut after half of the steps and resumed on the next number.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.distributed.launched import LAUNCHER
from tests.distributed.test_mpi import figures, tensors
from tests.program import PROGRAM, environment


def main() -> int:
    """Run all numbers of ranks and return 1 if any bit differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4, 8])
    parser.add_argument("--set", action="append", default=[], help="more settings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for number, size in enumerate(options.ranks):
            other = options.ranks[(number + 1) % len(options.ranks)]
            for name, parts in ((f"{size} ranks", [size]), (f"{size}, then {other}", [size, other])):
                models = Path(folder, name.replace(", ", "-").replace(" ", "-"))
                for part, ranks in enumerate(parts, 1):
                    train(ranks, options, models, options.steps * part // len(parts), resume=part > 1)
                digests = digest(models, every=len(parts) == 1)
                print(f"{name:<16} {' '.join(digests)}", flush=True)
                found.append(digests)
    whole, cut = set(found[::2]), {digests[1] for digests in found[1::2]}
    is_equal = len(whole) == 1 and cut == {next(iter(whole))[1]}
    print("all equal" if is_equal else "DIFFERENT")
    return 0 if is_equal else 1


def train(size: int, options: argparse.Namespace, models: Path, steps: int, *, resume: bool) -> None:
    """Train up to a step on this many ranks."""
    values = ["micro_batch_size=2", "eval_every_steps=50", "save_every_minutes=0", f"max_steps={steps}", *options.set]
    words = [word for value in values for word in ("--set", value)]
    launcher = [*LAUNCHER, "-n", str(size)] if size > 1 else []
    start = ["--resume"] if resume else ["--preset", options.preset]
    subprocess.run(
        [*launcher, *PROGRAM, "--train-only", "--models-dir", str(models), *start, *words],
        env=environment(OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def digest(models: Path, *, every: bool) -> tuple[str, str]:
    """Return a digest of the figures in the log, "-" unless `every`, and one of the tensors of the last checkpoint."""
    log = hashlib.sha256(repr(figures(models)).encode()).hexdigest()[:16] if every else "-"
    state = hashlib.sha256(b"".join(tensors(models / "ckpt_latest.safetensors"))).hexdigest()[:16]
    return log, state


if __name__ == "__main__":
    sys.exit(main())
