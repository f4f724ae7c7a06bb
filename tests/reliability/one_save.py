"""A process that waits for a line on standard input, then saves one checkpoint of each kind and prints each kind."""

from __future__ import annotations

import sys
from pathlib import Path

from gpt_core.checkpoints.store import CheckpointStore
from tests.core.checkpoint_samples import sample

KINDS = ("latest", "best", "epoch")


def save_each(folder: Path, step: int) -> None:
    """Save as each kind in turn, with an accuracy that grows with the step."""
    store = CheckpointStore(folder)
    store.prepare("run-a", new_run=False)
    print("ready", flush=True)
    sys.stdin.readline()
    for kind in KINDS:
        store.save(kind, sample(step=step, best_accuracy=step / 10))
        print(kind, flush=True)


if __name__ == "__main__":
    save_each(Path(sys.argv[1]), int(sys.argv[2]))
