"""How long a step takes on this machine, found out in a second or two: a few real passes over random tokens.

Nothing is read or written but memory of its own. What would take long is made smaller and counted up again: fewer
sequences at once, then fewer blocks, then a shorter context, until a pass has at most MAX_PROBE_FLOPS; its seconds are
multiplied by the ratio of the operations. Everything that costs time in a pass grows with these.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from gpt_core.bench.estimate import STATE_COPIES, StepTime, window_length
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.kernels import adamw, threads
from gpt_core.model.flops import FLOAT_BYTES, activation_bytes, step_flops
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.optim.adamw import AdamW

MAX_PROBE_FLOPS = 200e9  # of one pass: one to two seconds on two cores
MEASURE_S = 1.0  # that is measured at least, after a first pass that is not
MIN_PASSES = 2
MOST_S = 4.0  # after so long, a single one that is measured must do
RANDOM_VALUES = 1 << 16  # the weights are these over and over: what they are does not matter, but zeros would


class Sample(NamedTuple):
    """What is timed in place of a micro-batch of the whole model."""

    shape: ModelShape
    batch: int
    time: int

    @property
    def operations(self) -> int:
        """Of its forward and backward pass."""
        return step_flops(self.shape, self.batch, self.time).total

    @property
    def memory_bytes(self) -> int:
        """That timing it takes."""
        state = STATE_COPIES * FLOAT_BYTES * parameter_count(self.shape)
        return state + activation_bytes(self.shape, self.batch, self.time, threads.get_threads())


def probe_workload(settings: Settings) -> Sample:
    """The largest sample that is quick enough."""
    sample = Sample(settings.shape, settings.micro_batch, window_length(settings))
    while sample.operations > MAX_PROBE_FLOPS:
        shape, batch, length = sample
        if batch > 1:
            sample = sample._replace(batch=max(1, min(batch // 2, int(batch * MAX_PROBE_FLOPS / sample.operations))))
        elif shape.layers > 1:
            sample = sample._replace(shape=msgspec.structs.replace(shape, layers=max(1, shape.layers // 2)))
        elif length > 1:
            sample = sample._replace(time=length // 2)
        else:
            break
    return sample


def measure_step_time(settings: Settings, *, stopped: Callable[[], bool] = lambda: False) -> StepTime | None:
    """Seconds of one optimizer step with these settings; None if `stopped` says so, which is asked between passes.

    Computes on `threads.get_threads()` threads and allocates `probe_workload(settings).memory_bytes`; the caller
    checks that this much memory is free. Raises MemoryError.
    """
    sample = probe_workload(settings)
    shape, batch, length = sample
    weights, gradients = Parameters(shape), Parameters(shape)
    random = np.random.default_rng(0)
    values = 0.02 * random.standard_normal(RANDOM_VALUES, dtype=np.float32)
    for start in range(0, weights.flat.size, RANDOM_VALUES):
        stretch = weights.flat[start : start + RANDOM_VALUES]
        stretch[:] = values[: stretch.size]
    gpt, optimizer = GPT(weights), AdamW(weights, settings)
    tokens, targets = random.integers(shape.vocab_size, size=(2, batch, length), dtype=np.int32)

    def forward_and_backward() -> None:
        gpt.loss_and_gradients(tokens, targets, gradients, 1.0 / targets.size)

    def update() -> None:
        optimizer.update(gradients, 1, 1.0, optimizer.clip_scale(adamw.norm(gradients.flat)))
        gradients.flat.fill(0.0)

    passes: list[float] = []
    updates: list[float] = []
    started = time.perf_counter()
    while not enough(passes, time.perf_counter() - started):
        if stopped():
            return None
        passes.append(seconds_of(forward_and_backward))
        updates.append(seconds_of(update))
    whole = step_flops(settings.shape, settings.batch_size, window_length(settings)).total
    return StepTime(
        passes_s=statistics.median(passes[1:]) * whole / sample.operations,
        update_s=statistics.median(updates[1:]) * parameter_count(settings.shape) / parameter_count(shape),
    )


def enough(passes: list[float], elapsed_s: float) -> bool:
    """Whether these passes tell how long one takes: never the first alone, which touches its memory as it goes."""
    measured = passes[1:]
    is_steady = len(measured) >= MIN_PASSES and sum(measured) >= MEASURE_S
    return is_steady or (len(measured) > 0 and elapsed_s > MOST_S)


def seconds_of(action: Callable[[], None]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
