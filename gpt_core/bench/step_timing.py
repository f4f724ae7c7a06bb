"""Time of one training step on this machine, measured in a second or two with real passes over random tokens.

Large configurations are timed on a smaller workload and scaled by FLOPs: fewer sequences at once, then fewer blocks,
then a shorter context, until a pass has at most `MAX_PROBE_FLOPS`. Reads and writes no files.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from gpt_core.bench.estimate import StepTime, training_state_bytes
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.kernels import compute_threads, threads
from gpt_core.model.flops import step_flops
from gpt_core.model.gpt import GPT
from gpt_core.model.layers.dropout import dropout_of
from gpt_core.model.memory import activation_bytes, gradient_bytes
from gpt_core.model.parameters import Parameters, frozen_names
from gpt_core.model.precision import ProductFormat
from gpt_core.optim import create_optimizer, optimizer_type
from gpt_core.training.precision import MEASUREMENT_LOCK, with_precision
from gpt_core.training.setup import window_length

MAX_PROBE_FLOPS = 200e9  # of one forward and backward pass: one to two seconds on two cores
MEASURE_S = 1.0  # minimum time measured, after a warm-up pass
MIN_PASSES = 2
MAX_S = 4.0  # after this time one measured pass is enough
RANDOM_VALUES = 1 << 16  # the weights repeat these: zeros would be timed differently


class Workload(NamedTuple):
    """Model and batch that are timed in place of a micro-batch of the configured model."""

    shape: ModelShape
    batch: int
    time: int
    optimizer: str
    averaged: bool = False
    """True if the weights are averaged"""

    @property
    def flops(self) -> int:
        """FLOPs of its forward and backward pass."""
        return step_flops(self.shape, self.batch, self.time).total

    @property
    def memory_bytes(self) -> int:
        """Bytes that timing it allocates in float32; in bfloat16 it allocates fewer."""
        activations = activation_bytes(self.shape, self.batch, self.time, threads.get_threads())
        scratch = optimizer_type(self.optimizer).scratch_bytes(self.shape, threads.get_threads())
        state = training_state_bytes(
            self.shape, self.optimizer, averaged=self.averaged, gradients=gradient_bytes(self.shape)
        )
        return state + activations + scratch


def probe_workload(settings: Settings) -> Workload:
    """Return the largest workload within `MAX_PROBE_FLOPS`."""
    averaged = settings.ema > 0
    workload = Workload(settings.shape, settings.micro_batch, window_length(settings), settings.optimizer, averaged)
    while (flops := workload.flops) > MAX_PROBE_FLOPS:
        shape, batch, length, *_ = workload
        if batch > 1:
            workload = workload._replace(batch=max(1, min(batch // 2, int(batch * MAX_PROBE_FLOPS / flops))))
        elif shape.layers > 1:
            workload = workload._replace(shape=msgspec.structs.replace(shape, layers=max(1, shape.layers // 2)))
        elif length > 1:
            workload = workload._replace(time=length // 2)
        else:
            break
    return workload


def measure_step_time(settings: Settings, stopped: Callable[[], bool] = lambda: False) -> StepTime | None:
    """Measure the time of one optimizer step with these settings.

    Waits for other measurements of this process. Sets the number of threads to that of the run, and allocates
    `probe_workload(settings).memory_bytes`; the caller checks that this much memory is free.

    Args:
        settings: Settings of the run.
        stopped: Called between passes; True ends the measurement.

    Returns:
        The time of a step, or None if `stopped` returned True.

    Raises:
        MemoryError: There is not enough memory.
    """
    with MEASUREMENT_LOCK:
        if stopped():
            return None
        threads.set_threads(compute_threads(settings.threads))
        settings, precision = with_precision(settings)
        workload = probe_workload(settings)
        forward_and_backward, update = _step_functions(workload, settings, precision.products)
        passes: list[float] = []
        updates: list[float] = []
        started = time.perf_counter()
        while not enough(passes, time.perf_counter() - started):
            if stopped():
                return None
            passes.append(seconds_of(forward_and_backward))
            updates.append(seconds_of(update))
    shape, work_of = settings.shape, optimizer_type(settings.optimizer).update_work
    frozen = frozen_names(shape, settings.freeze)  # the workload is timed without them
    flops = step_flops(shape, settings.batch_size, window_length(settings), frozen).total
    return StepTime(
        passes_s=statistics.median(passes[1:]) * flops / workload.flops,
        update_s=statistics.median(updates[1:]) * work_of(shape, settings.freeze) / work_of(workload.shape),
        precision=precision,
    )


class StepTimes:
    """Measured times per step. Each is measured once, so that all estimates of a process have the same one.

    Args:
        measure: Measures the time per step, as `measure_step_time` does.
    """

    def __init__(self, measure: Callable[[Settings, Callable[[], bool]], StepTime | None] = measure_step_time) -> None:
        self._measure = measure
        self._known: dict[tuple[object, ...], StepTime] = {}

    def known(self, settings: Settings) -> StepTime | None:
        """Return the time per step if it was measured before."""
        return self._known.get(timing_key(settings))

    def __call__(self, settings: Settings, stopped: Callable[[], bool] = lambda: False) -> StepTime | None:
        """Return the time per step, measured now unless it is known; None if `stopped` returned True."""
        found = self.known(settings) or self._measure(settings, stopped)
        if found is not None:
            self._known[timing_key(settings)] = found
        return found


STEP_TIMES = StepTimes()
"""The times of this process."""


def timing_key(settings: Settings) -> tuple[object, ...]:
    """Return the settings that the time per step depends on."""
    shape = tuple(getattr(settings, name) for name in ModelShape.__struct_fields__)
    batches = (settings.batch_size, settings.micro_batch, window_length(settings))
    updates = (settings.optimizer, settings.ema > 0, settings.freeze)
    return (*shape, *batches, *updates, settings.threads, settings.precision, settings.dropout > 0)


def _step_functions(
    workload: Workload, settings: Settings, products: ProductFormat
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the two parts of a step on random weights and tokens."""
    shape, batch, length, *_ = workload
    weights, gradients = Parameters(shape), Parameters(shape)
    random = np.random.default_rng(0)
    values = 0.02 * random.standard_normal(RANDOM_VALUES, dtype=np.float32)
    for start in range(0, weights.flat.size, RANDOM_VALUES):
        stretch = weights.flat[start : start + RANDOM_VALUES]
        stretch[:] = values[: stretch.size]
    gpt = GPT(weights, products)
    optimizer = create_optimizer(weights, msgspec.structs.replace(settings, freeze=""))
    dropout = dropout_of(settings, 1, 0, length)
    tokens, targets = random.integers(shape.vocab_size, size=(2, batch, length), dtype=np.int32)

    def forward_and_backward() -> None:
        gpt.loss_and_gradients(tokens, targets, gradients, 1.0 / targets.size, dropout)

    def update() -> None:
        optimizer.update(gradients, 1, 1.0, optimizer.clip_scale(optimizer.gradient_norm(gradients)))
        optimizer.update_average(1)
        gradients.flat.fill(0.0)

    return forward_and_backward, update


def enough(passes: list[float], elapsed_s: float) -> bool:
    """Return True if these passes are enough; the first is a warm-up, which touches its memory for the first time."""
    measured = passes[1:]
    is_steady = len(measured) >= MIN_PASSES and sum(measured) >= MEASURE_S
    return is_steady or (len(measured) > 0 and elapsed_s > MAX_S)


def seconds_of(action: Callable[[], None]) -> float:
    """Return the duration of `action`."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
