"""Run logs on disk for the tests of the Runs tab."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np

from gpt_core.training.events import EvalCompleted, Event, RunFinished, SampleWritten, to_json
from tests.tui.samples import started, step

LOG = "metrics.jsonl"


def lines(*events: Event) -> bytes:
    """Return the events as lines of a log."""
    return b"".join(to_json(event) + b"\n" for event in events)


def run_events(
    steps: int, *, seed: int = 0, rate: float = 100.0, end: str = "max_steps", evaluate_every: int = 50
) -> list[Event]:
    """Return a run with evaluations and samples; `rate` is its decay in steps, `end` "" omits the end."""
    noise = np.random.default_rng(seed).normal(0.0, 0.1, steps + 1)
    events: list[Event] = [started(max_steps=steps, seed=seed), SampleWritten(0, "It was", " xq zv")]
    for number in range(1, steps + 1):
        loss = 3.0 + 4.0 * math.exp(-number / rate)
        events.append(step(number, loss + float(noise[number])))
        if number % evaluate_every == 0:
            events.append(EvalCompleted(number, loss, math.exp(loss), 0.4 - loss / 20, loss / 2))
            events.append(SampleWritten(number, "It was", f" the {number} cats that sat"))
    return [*events, RunFinished(end, steps)] if end else events


def write_log(folder: Path, events: list[Event], *, age_s: float = 0.0) -> Path:
    """Write a run's log, last modified `age_s` seconds ago, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG
    path.write_bytes(lines(*events))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path
