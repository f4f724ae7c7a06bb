"""Prediction of the throughput of a run on several machines, from the time of a step and the network between them.

A step on n ranks takes the passes of the largest share of micro-batches, the update, which every rank makes, and the
part of the exchange of gradients that the backward pass of the last micro-batch does not hide. A collective operation
takes the latency of a message to each other rank, and the bytes that the busiest rank sends or receives at the
bandwidth of its link. Links are taken as full duplex and independent of each other, as those of a switch are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from gpt_core.distributed.tree import leaves_of_rank, owned_nodes

BACKWARD_SHARE = 2 / 3  # of a pass: two products per product of the forward pass
SMALL_COLLECTIVES = 2  # per step: the losses, and the requests to the ranks
MIN_GAIN = 1.05  # of the throughput, for which another machine pays
BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of an exchanged gradient, by format."""
RANKS = (2, 4, 8, 16, 32, 64)


class Chunk(msgspec.Struct, frozen=True):
    """Number of gradients that are exchanged together, complete after the backward pass of a block (-1: all)."""

    block: int
    values: int


class StepCosts(msgspec.Struct, frozen=True):
    """Computation and exchange of a step.

    Attributes:
        tokens: Tokens per step.
        micro_batches: Micro-batches per step, of which each rank takes its share.
        pass_s: Seconds of the forward and backward pass of one micro-batch.
        update_s: Seconds of clipping and update.
        layers: Blocks of the model.
        blocks_share: Fraction of a backward pass that is spent in the blocks.
        chunks: Gradients in the order in which they are complete.
        bytes_per_value: Bytes of an exchanged gradient.
    """

    tokens: int
    micro_batches: int
    pass_s: float
    update_s: float
    layers: int
    blocks_share: float
    chunks: tuple[Chunk, ...]
    bytes_per_value: int = 4

    @property
    def values(self) -> int:
        """Number of gradients that are exchanged per step."""
        return sum(chunk.values for chunk in self.chunks)


class Network(msgspec.Struct, frozen=True):
    """Network between the ranks, and the work of a rank for an exchange.

    Attributes:
        latency_s: Seconds of a short message.
        bytes_per_s: Bytes per second that a rank sends while it receives as many.
        work_s: Seconds per exchanged gradient for copies, rounding and sums, beside the network.
        overlap: Fraction, of what the backward pass could hide, that it does hide.
    """

    latency_s: float
    bytes_per_s: float
    work_s: float = 0.0
    overlap: float = 1.0


class Prediction(msgspec.Struct, frozen=True):
    """A step on a number of ranks.

    Attributes:
        ranks: Number of ranks, one per machine.
        step_s: Seconds per step.
        tokens_per_s: Tokens per second of all ranks together.
        exchange_s: Seconds of exchange per step, hidden ones included.
        hidden_s: Seconds of it that overlap with the backward pass.
        bytes_per_step: Bytes that the busiest rank sends or receives per step.
        micro_batches: Micro-batches per step of the rank with the most.
    """

    ranks: int
    step_s: float
    tokens_per_s: float
    exchange_s: float
    hidden_s: float
    bytes_per_step: float
    micro_batches: int


class Advice(msgspec.Struct, frozen=True):
    """Comparison of the present number of machines with others.

    Attributes:
        now: The prediction for the present number of ranks.
        pays: True if `next` has at least MIN_GAIN times the throughput.
        next: The next larger number of ranks that has fewer micro-batches per rank; None if there is none.
        best: The number of ranks with the highest throughput.
    """

    now: Prediction
    pays: bool
    next: Prediction | None
    best: Prediction


def predict(costs: StepCosts, network: Network, ranks: int) -> Prediction:
    """Return the prediction for a number of ranks, at most one per micro-batch."""
    share = -(-costs.micro_batches // ranks)
    compute_s = share * costs.pass_s + costs.update_s
    if ranks == 1:
        return Prediction(1, compute_s, costs.tokens / compute_s, 0.0, 0.0, 0.0, share)
    seconds = [exchange_seconds(chunk.values, costs, network, ranks) for chunk in costs.chunks]
    exchange_s, hidden_s = sum(seconds), network.overlap * hideable_seconds(costs, seconds)
    small_s = SMALL_COLLECTIVES * (ranks - 1) * network.latency_s
    step_s = compute_s + exchange_s - hidden_s + small_s
    sent = values_per_link(costs.values, ranks, costs.micro_batches) * costs.bytes_per_value
    return Prediction(ranks, step_s, costs.tokens / step_s, exchange_s, hidden_s, sent, share)


def predictions(costs: StepCosts, network: Network, ranks: Iterable[int] = RANKS) -> list[Prediction]:
    """Return the predictions for those numbers of ranks that have a micro-batch per rank."""
    return [predict(costs, network, number) for number in ranks if number <= costs.micro_batches]


def advise(costs: StepCosts, network: Network, ranks: int) -> Advice:
    """Compare `ranks` machines with more of them, and with the fastest number."""
    now = predict(costs, network, ranks)
    more = [predict(costs, network, number) for number in range(ranks + 1, costs.micro_batches + 1)]
    following = next((found for found in more if found.micro_batches < now.micro_batches), None)
    fewer = [predict(costs, network, number) for number in range(1, ranks)]
    best = max((*fewer, now, *more), key=lambda found: found.tokens_per_s)
    pays = following is not None and following.tokens_per_s >= MIN_GAIN * now.tokens_per_s
    return Advice(now, pays, following, best)


def calibrated(costs: StepCosts, network: Network, ranks: int, exchange_s: float, waited_s: float) -> Network:
    """Return the network with the work and the overlap that a measured step has shown.

    Args:
        costs: Costs of the measured step.
        network: Its latency and bandwidth.
        ranks: Its number of ranks.
        exchange_s: Its seconds of exchange.
        waited_s: Its seconds of waiting for the exchange.
    """
    wire_s = predict(costs, replace(network, work_s=0.0), ranks).exchange_s
    found = replace(network, work_s=max(0.0, exchange_s - wire_s) / max(1, costs.values), overlap=1.0)
    hideable_s = predict(costs, found, ranks).hidden_s
    overlap = min(1.0, max(0.0, exchange_s - waited_s) / hideable_s) if hideable_s > 0 else 1.0
    return replace(found, overlap=overlap)


def exchange_seconds(values: int, costs: StepCosts, network: Network, ranks: int) -> float:
    """Return the seconds of exchange of a chunk: parts to their ranks, then the sums to all."""
    sent = values_per_link(values, ranks, costs.micro_batches) * costs.bytes_per_value
    return 2 * (ranks - 1) * network.latency_s + sent / network.bytes_per_s + values * network.work_s


def hideable_seconds(costs: StepCosts, seconds: Sequence[float]) -> float:
    """Return the seconds of exchange that are over when the backward pass of the last micro-batch is.

    Chunks are exchanged one after the other, each as soon as it is complete.
    """
    per_block_s = costs.pass_s * BACKWARD_SHARE * costs.blocks_share / costs.layers
    now_s = -costs.pass_s
    for chunk, duration_s in zip(costs.chunks, seconds, strict=True):
        now_s = max(now_s, -per_block_s * max(0, chunk.block)) + duration_s
    return sum(seconds) - max(0.0, now_s)


def values_per_link(values: int, ranks: int, micro_batches: int) -> float:
    """Return the number of values that the busiest rank sends, or receives if these are more, of `values`."""
    return values / ranks * parts_per_link(ranks, micro_batches)


@lru_cache(maxsize=1024)
def parts_per_link(ranks: int, micro_batches: int) -> int:
    """Return the number of parts, of 1 / ranks of the values each, that the busiest rank sends or receives.

    Each rank sends a part of each tree node that it owns to every other rank, and its part of the sums to every other.
    """
    nodes = [len(owned_nodes(micro_batches, leaves_of_rank(rank, ranks, micro_batches))) for rank in range(ranks)]
    others = sum(nodes) - min(nodes)
    return max((ranks - 1) * max(nodes), others) + ranks - 1
