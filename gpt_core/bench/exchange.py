"""Benchmark of the exchange of gradients between the ranks of a run. Reads and writes no files.

Steps are made of real passes over random tokens, summed as in training (`gpt_core.training.gradient_sum`). All ranks
call `measure_exchange` together; rank 0 is also timed alone, on the threads that it has as a rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median_low
from typing import Any, get_args

import msgspec
import numpy as np

from gpt_core.bench.hardware import processor_name
from gpt_core.bench.scaling import BYTES, Chunk, Network, Prediction, StepCosts, calibrated, predictions
from gpt_core.config.presets import shape_name
from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator
from gpt_core.distributed.tree import leaves_of_rank
from gpt_core.kernels import compute_threads, threads
from gpt_core.model.flops import step_flops
from gpt_core.model.gpt import GPT, Gradients
from gpt_core.model.layers.dropout import dropout_of
from gpt_core.model.parameters import Parameters, frozen_names, initial_parameters, parameter_count
from gpt_core.optim import create_optimizer
from gpt_core.progress import Progress, ignore_progress
from gpt_core.training.gradient_sum import (
    MAX_CHUNK,
    MIN_CHUNK,
    ExchangeFormat,
    GradientSum,
    LayerDone,
    check_ranks,
    chunks_of,
)
from gpt_core.training.precision import with_precision
from gpt_core.training.setup import window_length

FORMATS: tuple[ExchangeFormat, ...] = get_args(ExchangeFormat)
MESSAGE_BYTES = (1 << 12, 1 << 16, 4 * MIN_CHUNK, 4 * MAX_CHUNK)
"""Sizes of the exchanged chunks: small ones, and the bounds of those of training."""
MEASURE_S = 2.0  # seconds per measurement, within the bounds below
MIN_REPEATS, MAX_REPEATS = 3, 100
CONTROL_VALUES = 7  # that the ranks gather at each step boundary of a run


class ExchangedChunk(msgspec.Struct, frozen=True):
    """Exchange of a chunk of this many bytes: median seconds, and bytes per second that a rank sends."""

    bytes: int
    seconds: float
    bytes_per_s: float


class MeasuredStep(msgspec.Struct, frozen=True):
    """The step of median duration of the slowest rank, with one format of the exchange, and its predictions."""

    format: str
    steps: int
    step_s: float
    tokens_per_s: float
    """of all ranks together"""
    sent_bytes: float
    """per step, of the rank that sends the most"""
    exchange_s: float
    exchange_share: float
    """seconds of exchange per second of the step, hidden ones included"""
    waited_s: float
    hidden_share: float
    """fraction of the exchange that overlaps with the backward pass"""
    network: Network
    costs: StepCosts
    predictions: list[Prediction]


class ExchangeBenchmark(msgspec.Struct, frozen=True):
    """Everything that `gpt-tui bench --mpi` measures."""

    hosts: tuple[str, ...]
    """host of each rank"""
    processor: str
    """of rank 0"""
    threads: int
    """of each rank"""
    preset: str
    parameters: int
    batch_size: int
    micro_batch_size: int
    time: int
    """tokens per sequence"""
    latency_s: float
    """of a short message from a rank to another"""
    bytes_per_s: float
    """that a rank sends while it receives as many, in chunks of the largest size"""
    chunks: list[ExchangedChunk]
    alone_step_s: float
    """of rank 0 with all micro-batches of the step, while the other ranks wait"""
    alone_tokens_per_s: float
    steps: list[MeasuredStep]
    """one per format of the exchange"""


def measure_exchange(
    ranks: Communicator, settings: Settings, *, repeats: int = 0, progress: Progress = ignore_progress
) -> ExchangeBenchmark:
    """Measure the network and steps on these ranks. Collective.

    Args:
        ranks: Ranks to measure, at least two.
        settings: Settings of the run: those of rank 0 are used, but for `threads`.
        repeats: Measured steps; 0 chooses their number by their duration.
        progress: Receives the phase and the fraction done.

    Raises:
        ConfigError: There are more ranks than micro-batches per step.
        RankError: A rank has failed or is lost.
    """
    first = msgspec.json.decode(ranks.broadcast(msgspec.json.encode(settings)), type=Settings)
    settings = msgspec.structs.replace(first, threads=settings.threads)
    check_ranks(len(ranks.hosts), settings.batch_size, settings.micro_batch)
    threads.set_threads(compute_threads(settings.threads))
    step = Step(settings, ranks)
    progress("messages", 0.0)
    latency_s, bytes_per_s, chunks = measure_network(ranks)
    progress("steps of one rank", 0.2)
    alone_s = 0.0
    if ranks.rank == 0:
        sums = GradientSum(step.gradients, step.micro_batches, SINGLE_PROCESS)
        alone_s = median_low(timed(lambda: step.take(sums), SINGLE_PROCESS, repeats))
    alone_s = float(ranks.gather(np.array([alone_s]))[0, 0])
    progress("passes of all ranks at once", 0.4)
    pass_s, update_s = step.measure_parts(repeats)
    network = Network(latency_s, bytes_per_s)
    steps = []
    for number, format in enumerate(FORMATS):
        progress(f"steps with exchange in {format}", 0.6 + 0.2 * number)
        steps.append(step.measure(format, pass_s, update_s, network, repeats))
    shape = settings.shape
    return ExchangeBenchmark(
        hosts=tuple(ranks.hosts), processor=processor_name(), threads=threads.get_threads(), preset=shape_name(shape),
        parameters=parameter_count(shape), batch_size=settings.batch_size, micro_batch_size=settings.micro_batch,
        time=window_length(settings), latency_s=latency_s, bytes_per_s=bytes_per_s, chunks=chunks,
        alone_step_s=alone_s, alone_tokens_per_s=step.tokens / alone_s, steps=steps,
    )  # fmt: skip


# ---- network


def measure_network(ranks: Communicator) -> tuple[float, float, list[ExchangedChunk]]:
    """Return the latency of a message in seconds, the bytes per second that a rank sends, and the measured chunks."""
    size = len(ranks.hosts)
    own = [median_low(timed(exchange_of(ranks, values), ranks)) for values in (size, *(n // 4 for n in MESSAGE_BYTES))]
    short_s, *seconds = ranks.gather(np.array(own)).max(axis=0).tolist()  # of the slowest rank
    chunks = [
        ExchangedChunk(count, spent, 2 * (size - 1) * (count // 4 // size) * 4 / spent)
        for count, spent in zip(MESSAGE_BYTES, seconds, strict=True)
    ]
    last = chunks[-1]
    transfer_s = max(last.seconds - short_s, last.seconds / 10)
    return short_s / 2 / (size - 1), last.bytes_per_s * last.seconds / transfer_s, chunks


def exchange_of(ranks: Communicator, values: int) -> Callable[[], None]:
    """Return the exchange of a chunk of this many values, as the gradient sum makes it of one node per rank."""
    size = len(ranks.hosts)
    part = values // size
    counts = [part] * size
    sent, received, own = (np.zeros(length, np.float32) for length in (part * size, part * size, part))

    def exchange() -> None:
        ranks.exchange(sent, counts, received, counts)
        ranks.collect(own, received, counts)

    return exchange


# ---- steps


class Step:
    """A training step on random tokens on each of several ranks."""

    def __init__(self, settings: Settings, ranks: Communicator) -> None:
        settings, choice = with_precision(settings)
        self._settings, self._ranks = settings, ranks
        shape, batch, length = settings.shape, settings.micro_batch, window_length(settings)
        self._frozen = frozen_names(shape, settings.freeze)
        self.micro_batches = settings.micro_batches
        self.tokens = settings.batch_size * length
        self.gradients = Parameters(shape)
        self._weights = initial_parameters(shape, settings.seed, settings.init_projections)
        self._gpt = GPT(self._weights, choice.products, self._frozen)
        self._optimizer = create_optimizer(self._weights, settings)
        self._dropout = dropout_of(settings, 1, 0, length)
        self._batch = np.random.default_rng(0).integers(shape.vocab_size, size=(2, batch, length), dtype=np.int32)

    def take(self, sums: GradientSum) -> None:
        """Take one step."""
        sums.of_step(self.take_pass)
        self.update()

    def measure_parts(self, repeats: int) -> tuple[float, float]:
        """Return the seconds of a pass and of an update of the slowest rank, all at once. Collective."""
        owned = leaves_of_rank(self._ranks.rank, len(self._ranks.hosts), self.micro_batches)
        own = GradientSum(self.gradients, owned.stop - owned.first, SINGLE_PROCESS)
        passes = timed(lambda: own.of_step(self.take_pass), self._ranks, repeats)
        updates = timed(self.update, self._ranks, repeats)
        pass_s = median_low(passes) / (owned.stop - owned.first)
        found = self._ranks.gather(np.array([pass_s, median_low(updates)]))
        return float(found[:, 0].max()), float(found[:, 1].max())

    def measure(
        self, format: ExchangeFormat, pass_s: float, update_s: float, network: Network, repeats: int
    ) -> MeasuredStep:
        """Return the measured step with this format, with predictions for other numbers of ranks. Collective."""
        ranks = self._ranks
        sums = GradientSum(self.gradients, self.micro_batches, ranks, format, self._frozen)
        control = np.zeros(CONTROL_VALUES)
        rows: list[tuple[float, ...]] = []

        def step() -> None:
            before = sums.totals
            self.take(sums)
            ranks.gather(control)
            rows.append(tuple(now - then for now, then in zip(sums.totals, before, strict=True)))

        seconds = timed(step, ranks, repeats)
        # the totals of the step of median duration: medians of each need not belong to one step
        median = sorted(range(len(seconds)), key=seconds.__getitem__)[(len(seconds) - 1) // 2]
        found = ranks.gather(np.array([seconds[median], *rows[-len(seconds) :][median]]))
        step_s, sent_bytes, exchange_s, waited_s = found.max(axis=0).tolist()
        costs = self.costs(pass_s, update_s, BYTES[format])
        network = calibrated(costs, network, len(ranks.hosts), exchange_s, waited_s)
        return MeasuredStep(
            format=format, steps=len(seconds), step_s=step_s, tokens_per_s=self.tokens / step_s, sent_bytes=sent_bytes,
            exchange_s=exchange_s, exchange_share=exchange_s / step_s, waited_s=waited_s,
            hidden_share=max(0.0, exchange_s - waited_s) / exchange_s if exchange_s else 0.0,
            network=network, costs=costs, predictions=predictions(costs, network),
        )  # fmt: skip

    def costs(self, pass_s: float, update_s: float, bytes_per_value: int) -> StepCosts:
        """Return the costs of a step from the seconds of a pass of a micro-batch and of an update."""
        shape, settings = self._settings.shape, self._settings
        flops = step_flops(shape, settings.micro_batch, window_length(settings), self._frozen)
        chunks = tuple(Chunk(chunk.block, chunk.size) for chunk in chunks_of(self.gradients, self._frozen))
        blocks_share = 1 - flops.logits / flops.total
        return StepCosts(
            self.tokens, self.micro_batches, pass_s, update_s, shape.layers, blocks_share, chunks, bytes_per_value
        )

    def take_pass(self, _number: int, gradients: Gradients, layer_done: LayerDone | None) -> float:
        """Run the forward and backward pass of one micro-batch, and return its loss; see `GradientSum.of_step`."""
        tokens, targets = self._batch
        return self._gpt.loss_and_gradients(
            tokens, targets, gradients, 1.0 / self.tokens, self._dropout, layer_done
        )[0]  # fmt: skip

    def update(self) -> None:
        """Clip the gradients and update the weights."""
        norm = self._optimizer.gradient_norm(self.gradients)
        self._optimizer.update(self.gradients, 1, 1.0, self._optimizer.clip_scale(norm))
        self._optimizer.update_average(1)


def timed(action: Callable[[], Any], ranks: Communicator, repeats: int = 0) -> list[float]:
    """Return the seconds of repeated calls, after one to warm up, which all ranks begin together. Collective.

    Args:
        action: Collective, or not.
        ranks: Ranks that call it.
        repeats: Number of calls; 0 for as many as take MEASURE_S on rank 0, within bounds.
    """
    action()
    began = time.perf_counter()
    action()
    once = float(ranks.gather(np.array([time.perf_counter() - began]))[0, 0])
    count = repeats or max(MIN_REPEATS, min(MAX_REPEATS, round(MEASURE_S / max(once, 1e-9))))
    seconds = []
    for _ in range(count):
        ranks.gather(np.zeros(1))
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return seconds
