"""Reading a sequence token by token, with the keys and values of what was read kept in a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels import attention, embedding, gelu, layer_norm, linear
from gpt_core.model.activations import Workspace, empty
from gpt_core.model.blocks import BlockTensors, block_tensors, pair
from gpt_core.model.parameters import Parameters

Array = NDArray[np.float32]

CHUNK = 256  # tokens of a prompt that are read at once: bounds the buffers


class KVCache:
    """Keys and values (1, T, C) of one layer, filled from the first position on."""

    def __init__(self, capacity: int, channels: int) -> None:
        self.keys = empty(1, capacity, channels)
        self.values = empty(1, capacity, channels)


class ChunkBuffers:
    """The activations of `rows` tokens read at once."""

    def __init__(self, parameters: Parameters, rows: int) -> None:
        shape = parameters.shape
        C = shape.d_model
        self.x, self.normed, self.attended = empty(rows, C), empty(rows, C), empty(rows, C)
        self.mean, self.rstd = empty(rows), empty(rows)
        self.qkv = empty(rows, 3 * C)
        self.hidden = empty(rows, shape.hidden_size)
        self.log_sums = empty(1, shape.num_heads, rows)


class Decoder:
    """The model as a reader of one sequence: `read` takes tokens and gives the logits of the next one.

    Equal to the full forward pass, at the cost of one row for each token. The weights must not change in between.
    """

    def __init__(self, parameters: Parameters) -> None:
        shape = parameters.shape
        self.parameters = parameters
        self.capacity = shape.seq_len
        self.length = 0
        self._blocks = block_tensors(parameters)
        self._ln_f = pair(parameters, "ln_f")
        self._wte, self._wpe = parameters["wte.weight"], parameters["wpe.weight"]
        self._caches = [KVCache(self.capacity, shape.d_model) for _ in range(shape.layers)]
        self._one = ChunkBuffers(parameters, 1)
        self._logits = empty(1, shape.vocab_size)
        self._workspace = Workspace(self.capacity)

    def reset(self) -> None:
        """Forgets what was read."""
        self.length = 0

    def read(self, tokens: Sequence[int] | NDArray[np.int32]) -> Array:
        """Reads tokens after those read before; gives a new array of the logits (V,) that follow the last one.

        Raises ValueError for no tokens, and where they do not fit into the `capacity` positions.
        """
        ids = np.asarray(tokens, dtype=np.int32)
        if ids.size == 0:
            raise ValueError("decoder: got no tokens, want at least one")
        if self.length + ids.size > self.capacity:
            raise ValueError(f"decoder: got {ids.size} tokens after {self.length}, want at most {self.capacity} in all")
        for first in range(0, ids.size, CHUNK):
            buffers = self._read_chunk(ids[first : first + CHUNK])
        last = buffers.x[-1:]
        layer_norm.forward(self._one.normed, self._one.mean, self._one.rstd, last, *self._ln_f)
        linear.product(self._logits, self._one.normed, self._wte, transpose_b=True)
        logits: Array = self._logits[0].copy()
        return logits

    def _read_chunk(self, ids: NDArray[np.int32]) -> ChunkBuffers:
        buffers = self._one if ids.size == 1 else ChunkBuffers(self.parameters, ids.size)
        embedding.forward(buffers.x, ids, self._wte, self._wpe, ids.size, self.length)
        for w, cache in zip(self._blocks, self._caches, strict=True):
            self._block(w, cache, buffers)
        self.length += ids.size
        return buffers

    def _block(self, w: BlockTensors, cache: KVCache, buffers: ChunkBuffers) -> None:
        rows, C = buffers.x.shape
        end = self.length + rows
        layer_norm.forward(buffers.normed, buffers.mean, buffers.rstd, buffers.x, *w.ln_1)
        linear.forward(buffers.qkv, buffers.normed, *w.c_attn)
        cache.keys[0, self.length : end] = buffers.qkv[:, C : 2 * C]
        cache.values[0, self.length : end] = buffers.qkv[:, 2 * C :]
        q, k, v = buffers.qkv[None, :, :C], cache.keys[:, :end], cache.values[:, :end]
        attention.forward(buffers.attended[None], buffers.log_sums, q, k, v, self._workspace.rows)
        linear.forward(buffers.x, buffers.attended, *w.attn_proj, buffers.x)
        layer_norm.forward(buffers.normed, buffers.mean, buffers.rstd, buffers.x, *w.ln_2)
        linear.forward(buffers.hidden, buffers.normed, *w.c_fc)
        gelu.forward(buffers.hidden, buffers.hidden)
        linear.forward(buffers.x, buffers.hidden, *w.mlp_proj, buffers.x)
