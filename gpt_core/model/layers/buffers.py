"""Buffers of a forward and backward pass: what layers declare, and the pool that allocates it.

Layers declare buffers as data, so that the same declaration allocates memory and estimates it. Activations that the
backward pass needs belong to one layer (`saved`). Buffers that are free again before the next layer runs share memory:
all buffers of one `slot` are views of one array, sized for the largest of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels.arrays import empty
from gpt_core.model.precision import PRECISION, DType

Use = Literal["saved", "scratch", "gradient"]

FORWARD: frozenset[Use] = frozenset({"saved", "scratch"})
BACKWARD: frozenset[Use] = frozenset({"gradient"})


class BatchShape(NamedTuple):
    """Dimensions that buffers depend on besides the model's shape."""

    batch: int
    """B, sequences"""
    time: int
    """T, tokens per sequence"""
    threads: int = 1
    """threads that need scratch memory of their own"""

    @property
    def rows(self) -> int:
        """N = B T."""
        return self.batch * self.time


class Buffer(NamedTuple):
    """One array of a layer. It becomes the layer's attribute `name`."""

    name: str
    shape: tuple[int, ...]
    use: Use = "saved"
    """saved: written by the forward pass, read by the backward pass; scratch: valid until the next layer writes its
    own; gradient: like scratch, in the backward pass alone"""
    slot: str = ""
    """buffers of the same slot share memory (scratch and gradient; default: `name`)"""
    dtype: DType = PRECISION.activations

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its values."""
        return self.size * self.dtype.bytes

    @property
    def shared(self) -> str | None:
        """The slot it shares, or None for memory of its own."""
        return None if self.use == "saved" else self.slot or self.name


def largest_by_slot(buffers: Iterable[Buffer]) -> dict[str, Buffer]:
    """Return the largest buffer of each shared slot."""
    largest: dict[str, Buffer] = {}
    for buffer in buffers:
        slot = buffer.shared
        if slot is not None and (slot not in largest or largest[slot].bytes < buffer.bytes):
            largest[slot] = buffer
    return largest


def buffer_bytes(buffers: Iterable[Buffer]) -> int:
    """Return the bytes that these buffers occupy together: shared slots count once."""
    buffers = list(buffers)
    saved = sum(buffer.bytes for buffer in buffers if buffer.shared is None)
    return saved + sum(buffer.bytes for buffer in largest_by_slot(buffers).values())


class BufferPool:
    """Allocates buffers; those of one slot are views of the same memory."""

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        """Allocate the shared slots of `buffers`, which are all that will be taken."""
        self._slots = {slot: empty(buffer.bytes, dtype=np.uint8) for slot, buffer in largest_by_slot(buffers).items()}

    def take(self, buffer: Buffer) -> NDArray[Any]:
        """Return an uninitialized array for `buffer`."""
        if buffer.shared is None:
            return empty(*buffer.shape, dtype=buffer.dtype.storage)
        return self._slots[buffer.shared][: buffer.bytes].view(buffer.dtype.storage).reshape(buffer.shape)
