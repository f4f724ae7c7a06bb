"""Delay of training by a background save, compared with a synchronous save.

    python benchmarks/saving.py --preset mini

Steps alternate in one run between no save, a save started before the step, and a save completed before the step, so
that other load affects all three alike. The cost of a save is the difference of the medians. A second table has the
parts of a save: hashing, checking for values that are not finite, writing, syncing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_core import files
from gpt_core.config.presets import PRESETS
from gpt_core.config.resolve import read_overrides
from gpt_core.formats.checkpoint import checkpoint_bytes
from gpt_core.training import events as ev
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.trainer import Trainer

WAYS = ("no save", "in background", "waiting")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="mini")
    parser.add_argument("--rounds", type=int, default=5, help="steps per kind of save (default: 5)")
    parser.add_argument("--folder", help="where to save (default: a temporary folder)")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        overrides = read_overrides(
            options.preset,
            assignments=[*options.assignments, "eval_every_steps=0", "save_every_steps=0", "save_every_minutes=0"],
            options={"models_dir": str(Path(folder, "models"))},
        )
        settings = overrides.apply_to().settings
        trainer = open_run(RunRequest(settings, options.preset))
        size_mb = checkpoint_bytes(settings) / 1e6
        print(f"{options.preset}: {size_mb:,.0f} MB per checkpoint, {options.rounds} rounds, medians")
        took_s, still_s = measured(trainer, options.rounds)
        usual = statistics.median(took_s["no save"])
        for way in WAYS:
            median, still = statistics.median(took_s[way]), statistics.median(still_s[way])
            print(f"{way:<16} {median:8.3f} s per step, {median - usual:+7.3f} s; training waited {still:.3f} s")
        for what, part_s in parts_of_a_save(trainer, Path(folder, "part")).items():
            print(f"  {what:<28} {part_s:7.3f} s")


def measured(trainer: Trainer, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds of steps for each way of saving, in turn, and the seconds spent waiting for a save.

    A step is measured from one boundary to the next, a save at the first of them included.
    """
    took_s: dict[str, list[float]] = {way: [] for way in WAYS}
    still_s: dict[str, list[float]] = {way: [] for way in WAYS}
    wait_for_tensors, waited_s = trainer._saver.wait_for_tensors, 0.0

    def timed_wait() -> None:
        nonlocal waited_s
        began = time.perf_counter()
        wait_for_tensors()
        waited_s += time.perf_counter() - began

    trainer._saver.wait_for_tensors = timed_wait  # type: ignore[method-assign]
    events = trainer.events()
    wait_for_step(events)
    for turn in range((rounds + 1) * len(WAYS)):
        way = WAYS[turn % len(WAYS)]
        started, waited_s = time.perf_counter(), 0.0
        if way == "in background":
            trainer.requests.save()
        elif way == "waiting":
            save_and_wait(trainer)
            waited_s = time.perf_counter() - started
        wait_for_step(events)
        if turn >= len(WAYS):  # the first round has no older file to replace, and a cold disk cache
            took_s[way].append(time.perf_counter() - started)
            still_s[way].append(waited_s)
        while trainer.saving:
            time.sleep(0.01)
    trainer.requests.stop(save=False)
    for _ in events:
        pass
    return took_s, still_s


def wait_for_step(events: object) -> None:
    """Advance to the next step event."""
    while not isinstance(next(events), ev.StepCompleted):  # type: ignore[call-overload]
        pass


def save_and_wait(trainer: Trainer) -> None:
    """Save synchronously, without a thread."""
    for _ in trainer._saver.save_present():
        pass


def parts_of_a_save(trainer: Trainer, path: Path) -> dict[str, float]:
    """Return the seconds of each part of a save: medians of three."""
    tensors = [parameters.flat for parameters in (trainer.parameters, *trainer.run.optimizer.state.values())]
    chunks = [flat[at : at + (1 << 18)] for flat in tensors for at in range(0, flat.size, 1 << 18)]

    def write() -> None:
        with open(path, "wb", buffering=0) as file:
            for flat in tensors:
                files.write_all(file.fileno(), flat.data)

    def sync() -> None:
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    return {
        "SHA-256": median_s(lambda: [hashlib.sha256(chunk.data) for chunk in chunks]),
        "looking for what is not finite": median_s(lambda: [np.isfinite(chunk).all() for chunk in chunks]),
        "writing": median_s(write),
        "syncing": median_s(sync, before=write),
    }


def median_s(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the median seconds of three calls."""
    took_s = []
    for _ in range(3):
        before()
        started = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - started)
    return statistics.median(took_s)


if __name__ == "__main__":
    main()
