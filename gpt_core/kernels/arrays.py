"""New arrays for the kernels, that begin with a cache line.

NumPy's begin 16 bytes after one where they are large, so that every vector of 64 bytes lies in two: training of small
shapes is 3 to 5% faster with these, of `mini` 1%.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.float32]

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def empty(*shape: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return an uninitialised array."""
    return _aligned(np.empty, shape, dtype)


def zeros(*shape: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return an array of zeros."""
    return _aligned(np.zeros, shape, dtype)


def _aligned(
    make: Callable[[int, type[np.uint8]], NDArray[np.uint8]], shape: tuple[int, ...], dtype: DTypeLike
) -> NDArray[Any]:
    size = np.dtype(dtype).itemsize * math.prod(shape)
    raw = make(size + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size].view(dtype).reshape(shape)
