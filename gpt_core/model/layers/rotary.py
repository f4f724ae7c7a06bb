"""Rotary position embedding, RoPE (Su et al. 2021): queries and keys are rotated by their positions.

The channels i and i + D/2 of a head are rotated as a point of the plane by the angle t 10000^(-2i / D) at position t:

    q[i] = q[i] cos - q[i + D/2] sin;  q[i + D/2] = q[i + D/2] cos + q[i] sin;  k likewise

So q · k depends on the distance of the two positions alone. There are no parameters, and no embedding of positions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import rope
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.layer import Layer, Tensors

BASE = 10_000.0


@lru_cache(maxsize=4)
def rotary_tables(positions: int, head_size: int) -> tuple[Array, Array]:
    """Return cosines and sines of the angles (positions, D/2)."""
    frequencies = BASE ** (-np.arange(0, head_size, 2) / head_size)
    angles = np.arange(positions)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class RotaryEmbedding(Layer):
    """Rotation of the queries and keys of all heads, in place."""

    tables: tuple[Array, Array]
    """cosines and sines for every position of the context (T, D/2), which all layers share"""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self._shape = shape

    def bind(self, weights: Tensors) -> None:
        """Compute the tables."""
        self.tables = rotary_tables(self._shape.seq_len, self._shape.head_size)

    def forward(self, qk: Activations, time: int, first_position: int = 0) -> None:
        """Rotate queries | keys, the first 2 C columns of qk, whose rows are sequences of `time` tokens."""
        # q[i] = q[i] cos - q[i + D/2] sin;  q[i + D/2] = q[i + D/2] cos + q[i] sin;  k likewise
        rope.rotate(qk, *self.tables, 2 * self._shape.d_model, time, first_position)

    def backward(self, d_qk: Activations, time: int) -> None:
        """Replace the gradients of the rotated queries and keys by those of the queries and keys."""
        # the rotation by the opposite angle
        rope.rotate(d_qk, *self.tables, 2 * self._shape.d_model, time, inverse=True)
