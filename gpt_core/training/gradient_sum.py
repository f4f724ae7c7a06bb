"""Sum of the gradients of the micro-batches of a step, over all ranks, in one fixed binary tree.

The micro-batches are the leaves of the tree (`gpt_core.distributed.tree`), so the sum has the same bits on any number
of ranks. Each rank sums what it owns. A micro-batch that completes a node needs no buffer for all gradients: those of a
block are added as soon as its backward pass is complete (`BlockwiseGradients`), so one buffer is enough for two or
three micro-batches.

The rest is exchanged in chunks: every rank receives a part of each chunk from all others, adds these up in the order of
the tree, and the sums are collected. A thread exchanges the chunks of a layer as soon as its backward pass is complete,
during that of the layers below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape
from gpt_core.distributed.communicator import Communicator
from gpt_core.distributed.tree import Node, leaves_of_rank, merges, owned_nodes, sums_at_once, tree_sum
from gpt_core.errors import ConfigError
from gpt_core.kernels import threads
from gpt_core.kernels.arrays import Array, empty, not_finite_is_expected, whole_lines, widened, zeros
from gpt_core.model.gpt import Gradients
from gpt_core.model.layers.layer import ParameterSpec
from gpt_core.model.memory import gradient_bytes
from gpt_core.model.parameters import Parameters, parameter_table
from gpt_core.model.precision import PRECISION

ExchangeFormat = Literal["float32", "bfloat16"]
LayerDone = Callable[[int], None]
"""Called with the number of a block once the backward pass of this block and of what is above it is complete."""
MicroBatch = Callable[[int, Gradients, LayerDone | None], float | None]
"""Adds the gradients of a micro-batch to zeros, block by block from the last one on, and calls `LayerDone` after each.
Returns the sum of its losses; None to give up the step."""

EMBEDDING = -1  # in place of the number of a block
MIN_CHUNK = 1 << 20  # values: smaller ones pay for more messages than they hide
MAX_CHUNK = 1 << 22
ROUNDED = 1 << 18  # values that are rounded at a time
QUIET = np.uint32(1 << 22)  # the bit of a NaN that keeps it from becoming an infinity without its lower bits


class Chunk(NamedTuple):
    """Ranges of the flat buffer that are exchanged together, complete after the backward pass of block `block`."""

    block: int
    ranges: tuple[slice, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(part.stop - part.start for part in self.ranges)


class ExchangeTotals(NamedTuple):
    """Totals of the exchange of gradients by this rank: bytes sent, seconds of exchange, and seconds waited for it."""

    sent_bytes: int = 0
    exchange_s: float = 0.0
    waited_s: float = 0.0


class BlockwiseGradients:
    """Gradients of one micro-batch, of which those of all blocks use the same memory, one block after the other.

    Attributes:
        shape: Shape of the model.
        flat: All values, zeros between micro-batches.
        tensors: Gradient of each parameter, by name.
        names: Names of the parameters whose gradients are complete after the backward pass of a block, by its number,
            and after that of the embedding, by `EMBEDDING`.
    """

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape
        self.tensors: dict[str, Array] = {}
        self.names: dict[int, list[str]] = {}
        of_embedding, of_block = _blockwise_sizes(shape)
        self.flat = zeros(of_embedding + of_block)
        for block, specs in _by_block(shape).items():
            self.names[block] = [spec.name for spec in specs]
            start = 0 if block == EMBEDDING else of_embedding
            for spec in specs:
                self.tensors[spec.name] = self.flat[start : start + spec.size].reshape(spec.shape)
                start += _whole_lines(spec)


def _blockwise_sizes(shape: ModelShape) -> tuple[int, int]:
    """Return the number of values of the embedding, and of the largest block, with what is complete with it."""
    sizes = {block: sum(map(_whole_lines, specs)) for block, specs in _by_block(shape).items()}
    return sizes.pop(EMBEDDING), max(sizes.values())


def _whole_lines(spec: ParameterSpec) -> int:
    return whole_lines(spec.size, PRECISION.compute.bytes)


def _by_block(shape: ModelShape) -> dict[int, list[ParameterSpec]]:
    """Return the parameters whose gradients are complete after the backward pass of a block, or of the `EMBEDDING`."""
    found: dict[int, list[ParameterSpec]] = {block: [] for block in range(shape.layers - 1, EMBEDDING - 1, -1)}
    for spec in parameter_table(shape):
        kind, *rest = spec.name.split(".")
        block = int(rest[0]) if kind == "h" else shape.layers - 1 if kind in ("ln_f", "lm_head") else EMBEDDING
        found[block].append(spec)
    return found


def summed_gradient_bytes(shape: ModelShape, leaves: int, *, is_exchanged: bool) -> int:
    """Return the bytes of the gradients of a rank while it sums those of its micro-batches.

    Args:
        shape: Shape of the model.
        leaves: Micro-batches of the rank.
        is_exchanged: The last one is exchanged with other ranks, and so has a buffer of its own.
    """
    whole = sums_at_once(leaves) + (is_exchanged and leaves > 1)
    by_block = PRECISION.compute.bytes * sum(_blockwise_sizes(shape)) if leaves > 1 + is_exchanged else 0
    return whole * gradient_bytes(shape) + by_block


class GradientSum:
    """Sums the gradients of the micro-batches of each step into one buffer.

    Attributes:
        totals: Totals of the exchange so far.
    """

    def __init__(
        self,
        gradients: Parameters,
        leaves: int,
        communicator: Communicator,
        format: ExchangeFormat = "float32",
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        """Create the sums of a run.

        Args:
            gradients: Receives the sum.
            leaves: Micro-batches per step.
            communicator: The ranks.
            format: Number format of the exchange. With bfloat16, every sum of the tree is rounded to it.
            frozen: Names of parameters whose gradients are not needed.
        """
        rank, size = communicator.rank, len(communicator.hosts)
        self.totals = ExchangeTotals()
        self._gradients, self._leaves, self._communicator = gradients, leaves, communicator
        self._owned = leaves_of_rank(rank, size, leaves)
        self._merges = merges(leaves, self._owned)
        self._is_rounded = format == "bfloat16"
        self._spare: list[Parameters] = []
        self._by_block: BlockwiseGradients | None = None
        self._exchange = None
        if size > 1:
            self._exchange = Exchange(gradients, leaves, communicator, self._is_rounded, chunks_of(gradients, frozen))

    def of_step(self, micro_batch: MicroBatch) -> float | None:
        """Sum the gradients of a step, and return the sum of its losses in nats.

        Args:
            micro_batch: Computes the micro-batch of a number. If it returns None, the step is given up.
        """
        stack: list[Parameters] = []
        losses = []
        for leaf, count in zip(range(*self._owned), self._merges, strict=True):
            exchange = self._exchange if leaf == self._owned.stop - 1 else None
            if count and exchange is None:
                loss = self._add_by_block(leaf, micro_batch, stack, count)
                count -= 1  # the leaf has no buffer of its own
            else:
                stack.append(self._empty() if stack else self._gradients)
                loss = self._add_whole(leaf, micro_batch, stack, count, exchange)
            if loss is None:
                self._spare += stack[1:]
                return None
            losses.append(loss)
            for _ in range(count):
                self._spare.append(stack.pop())
        self._spare += stack[1:]
        return self._loss(losses)

    def _add_whole(
        self, leaf: int, micro_batch: MicroBatch, stack: Sequence[Parameters], count: int, exchange: Exchange | None
    ) -> float | None:
        """Compute a micro-batch in the last buffer of the stack; exchange it, or leave the sum for later ones."""
        stack[-1].flat.fill(0.0)
        if exchange is None:
            loss = micro_batch(leaf, stack[-1], None)
            self._complete([stack[-1].flat], 0)
            return loss
        exchange.start(
            lambda part: self._complete([node.flat[part] for node in stack], count), stack[: len(stack) - count]
        )
        loss = micro_batch(leaf, stack[-1], exchange.layer_done)
        if loss is not None:
            self.totals = exchange.finish(self.totals)
        return loss

    def _add_by_block(
        self, leaf: int, micro_batch: MicroBatch, stack: Sequence[Parameters], count: int
    ) -> float | None:
        """Compute a micro-batch, and add its gradients block by block to the sums that are complete with it."""
        if self._by_block is None:
            self._by_block = BlockwiseGradients(self._gradients.shape)
        gradients = self._by_block
        added: set[int] = set()

        def add_block(block: int) -> None:
            added.add(block)
            with threads.DenormalsKept():  # as in an exchange, and after the pass
                for name in gradients.names[block]:
                    own = gradients.tensors[name].reshape(-1)
                    self._complete([*(node[name].reshape(-1) for node in stack), own], count)
                    own.fill(0.0)

        loss = micro_batch(leaf, gradients, add_block)
        if loss is None:
            gradients.flat.fill(0.0)
        else:
            for block in gradients.names.keys() - added:  # the embedding, and what the pass does not report if frozen
                add_block(block)
        return loss

    def _empty(self) -> Parameters:
        return self._spare.pop() if self._spare else Parameters(self._gradients.shape)

    def _complete(self, nodes: Sequence[Array], count: int) -> None:
        """Complete the last of these nodes, a leaf, and the `count` nodes that are complete with it.

        Args:
            nodes: The same part of the gradients of each node.
            count: Number of nodes whose right half ends with the leaf.
        """
        if self._is_rounded:
            round_to_bfloat16(nodes[-1])
        for right in range(len(nodes) - 1, len(nodes) - 1 - count, -1):
            add(nodes[right - 1], nodes[right], rounded=self._is_rounded)

    def _loss(self, losses: Sequence[float]) -> float:
        """Return the sum of the losses of all ranks in the order of the tree."""
        size = len(self._communicator.hosts)
        own = np.zeros(-(-self._leaves // size))
        own[: len(losses)] = losses
        rows: list[list[float]] = self._communicator.gather(own).tolist()
        found: dict[Node, float] = {}
        for rank, row in enumerate(rows):
            owned = leaves_of_rank(rank, size, self._leaves)
            found |= {Node(leaf, leaf + 1): row[leaf - owned.first] for leaf in range(*owned)}
        return tree_sum(self._leaves, found, lambda left, right: left + right)


class Exchange:
    """Exchange of the gradients of one step after another, by a thread of its own."""

    def __init__(
        self,
        gradients: Parameters,
        leaves: int,
        communicator: Communicator,
        rounded: bool,
        chunks: Sequence[Chunk],
    ) -> None:
        self._gradients, self._leaves, self._communicator = gradients, leaves, communicator
        self._is_rounded, self._chunks = rounded, chunks
        size = len(communicator.hosts)
        self._nodes = [owned_nodes(leaves, leaves_of_rank(rank, size, leaves)) for rank in range(size)]
        self._thread = ThreadPoolExecutor(1, "exchange")
        self._thread.submit(int).result()  # started here: within a pass it would inherit that denormals are flushed
        self._pending: list[Future[tuple[int, float]]] = []
        self._merge: Callable[[slice], None] = lambda _part: None
        self._sums: Sequence[Parameters] = ()

    def start(self, merge: Callable[[slice], None], sums: Sequence[Parameters]) -> None:
        """Begin the exchange of a step.

        Args:
            merge: Completes a part of `sums` once the backward pass of this part is over.
            sums: Sums of the nodes that this rank owns, complete after `merge`.
        """
        self._merge, self._sums, self._pending = merge, sums, []

    def layer_done(self, block: int) -> None:
        """Exchange the gradients that are complete after the backward pass of a block."""
        for chunk in self._chunks[len(self._pending) :]:
            if chunk.block < block:
                break
            self._pending.append(self._thread.submit(self._run, chunk))

    def finish(self, totals: ExchangeTotals) -> ExchangeTotals:
        """Exchange the rest, wait for the end, and return the totals with those of this step added."""
        began = time.perf_counter()
        self.layer_done(EMBEDDING)
        done = [future.result() for future in self._pending]
        return ExchangeTotals(
            totals.sent_bytes + sum(sent for sent, _ in done),
            totals.exchange_s + sum(seconds for _, seconds in done),
            totals.waited_s + time.perf_counter() - began,
        )

    def _run(self, chunk: Chunk) -> tuple[int, float]:
        """Exchange a chunk; return the bytes that this rank has sent, and the seconds it took."""
        began = time.perf_counter()
        for part in chunk.ranges:
            self._merge(part)
        size, rank = len(self._nodes), self._communicator.rank
        bounds = [chunk.size * number // size for number in range(size + 1)]
        lengths = [stop - start for start, stop in pairwise(bounds)]
        sent = self._packed(chunk, bounds)
        received = np.empty(lengths[rank] * sum(map(len, self._nodes)), sent.dtype)
        self._communicator.exchange(
            sent, [len(self._nodes[rank]) * length for length in lengths],
            received, [len(nodes) * lengths[rank] for nodes in self._nodes],
        )  # fmt: skip
        rows = widened(received.reshape(-1, lengths[rank]))
        sums = dict(zip((node for nodes in self._nodes for node in nodes), rows, strict=True))
        own = tree_sum(self._leaves, sums, self._added)
        whole = np.empty(chunk.size, sent.dtype)
        self._communicator.collect(self._encoded(own), whole, lengths)
        start = 0
        for part in chunk.ranges:
            stop = start + part.stop - part.start
            self._gradients.flat[part] = widened(whole[start:stop])
            start = stop
        own_bytes = len(self._nodes[rank]) * lengths[rank] * sent.itemsize
        return sent.nbytes - own_bytes + (size - 1) * lengths[rank] * sent.itemsize, time.perf_counter() - began

    def _packed(self, chunk: Chunk, bounds: Sequence[int]) -> NDArray[Any]:
        """Return the parts of a chunk for each rank, and within them those of each node, one after the other."""
        rows = []
        for parameters in self._sums:
            row = empty(chunk.size)
            start = 0
            for part in chunk.ranges:
                stop = start + part.stop - part.start
                row[start:stop] = parameters.flat[part]
                start = stop
            rows.append(self._encoded(row))
        if len(rows) == 1:
            return rows[0]
        return np.concatenate([row[start:stop] for start, stop in pairwise(bounds) for row in rows])

    def _encoded(self, values: Array) -> NDArray[Any]:
        """Return values in the format of the exchange; those of bfloat16 are rounded already."""
        if not self._is_rounded:
            return np.ascontiguousarray(values)
        return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)

    def _added(self, left: Array, right: Array) -> Array:
        add(left, right, rounded=self._is_rounded)
        return left


def chunks_of(parameters: Parameters, frozen: frozenset[str]) -> list[Chunk]:
    """Return the chunks of all but the frozen parameters, in the order in which their gradients become complete."""
    found: list[Chunk] = []
    pending: list[slice] = []
    for block, specs in _by_block(parameters.shape).items():
        names = [spec.name for spec in specs if spec.name in parameters.tensors and spec.name not in frozen]
        pending += (part for name in names for part in _parts(parameters, name))
        while pending and (block == EMBEDDING or sum(part.stop - part.start for part in pending) >= MIN_CHUNK):
            taken = [pending.pop(0)]
            while pending and Chunk(block, (*taken, pending[0])).size <= MAX_CHUNK:
                taken.append(pending.pop(0))
            found.append(Chunk(block, tuple(taken)))
    return found


def _parts(parameters: Parameters, name: str) -> Iterator[slice]:
    """Yield the range of a tensor in the flat buffer, in parts of at most MAX_CHUNK values."""
    start = parameters.start_of(name)
    stop = start + parameters[name].size
    for first in range(start, stop, MAX_CHUNK):
        yield slice(first, min(first + MAX_CHUNK, stop))


@not_finite_is_expected
def add(values: Array, others: Array, *, rounded: bool = False) -> None:
    """Add values to others in place; with `rounded`, round the sums to bfloat16."""
    np.add(values, others, out=values)
    if rounded:
        round_to_bfloat16(values)


def round_to_bfloat16(values: Array) -> None:
    """Round values in place to the nearest bfloat16, ties to even, as the kernels do; infinity and NaN stay.

    Unlike the kernel `gpt_core.kernels.conversion.to_bfloat16` it starts no threads: it runs beside the backward pass.
    """
    bits = values.view(np.uint32)
    for first in range(0, len(bits), ROUNDED):
        part = bits[first : first + ROUNDED]
        if (is_nan := np.isnan(values[first : first + ROUNDED])).any():  # rounding up might carry into the sign
            part[is_nan] = (part[is_nan] | QUIET) & np.uint32(0xFFFF0000)
        odd = (part >> np.uint32(16)) & np.uint32(1)
        part += odd + np.uint32(0x7FFF)
        part &= np.uint32(0xFFFF0000)


def micro_batch_for(ranks: int, batch_size: int) -> int:
    """Return the largest micro-batch that leaves one for every rank, 0 if there are more ranks than sequences."""
    return next((size for size in range(batch_size // ranks, 0, -1) if batch_size % size == 0), 0)


def check_ranks(ranks: int, batch_size: int, micro_batch: int) -> None:
    """Check that every rank has a micro-batch of each step.

    Raises:
        ConfigError: There are more ranks.
    """
    leaves = batch_size // micro_batch
    if ranks <= leaves:
        return
    fitting = micro_batch_for(ranks, batch_size)
    hint = (
        f"set micro_batch_size={fitting}, with which one process computes the same"
        if fitting
        else f"start at most {batch_size} ranks, or set batch_size={ranks} and micro_batch_size=1"
    )
    raise ConfigError(
        f"{ranks} ranks need as many micro-batches per step, got {leaves} (batch_size {batch_size}, "
        f"micro_batch_size {micro_batch}); {hint}"
    )
