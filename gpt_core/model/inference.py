"""Reading a sequence token by token, with the keys and values of what was read kept in a cache.

A prompt is read in chunks by the kernels of the full forward pass, a single token by one fused call for each block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels import attention, decoding, embedding, gelu, layer_norm, linear
from gpt_core.kernels.arrays import Array, empty
from gpt_core.model.activations import Workspace
from gpt_core.model.blocks import BlockTensors, block_tensors, pair
from gpt_core.model.parameters import Parameters

PREFILL_CHUNK = 256  # tokens of a prompt that are read at once: bounds the buffers


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
        self._readers = [
            decoding.Block(*w, cache.keys[0], cache.values[0], shape.num_heads)
            for w, cache in zip(self._blocks, self._caches, strict=True)
        ]
        self._x, self._normed = empty(1, shape.d_model), empty(shape.d_model)
        self._workspace = Workspace(self.capacity, shape.head_size)

    def reset(self) -> None:
        """Forgets what was read."""
        self.length = 0

    def prefill(self, tokens: Sequence[int] | NDArray[np.int32]) -> Array:
        """Append tokens to the cache and return a new array of the logits (V,) that follow the last one.

        Raises:
            ValueError: There are no tokens, or more than the cache has room for.
        """
        ids = np.asarray(tokens, dtype=np.int32)
        if ids.size == 0:
            raise ValueError("decoder: got no tokens, want at least one")
        if self.length + ids.size > self.capacity:
            raise ValueError(f"decoder: got {ids.size} tokens after {self.length}, want at most {self.capacity} in all")
        for first in range(0, ids.size, PREFILL_CHUNK):
            chunk = ids[first : first + PREFILL_CHUNK]
            x = self._read_one(chunk) if chunk.size == 1 else self._read_chunk(chunk)
            self.length += chunk.size
        logits = empty(self._wte.shape[0])
        decoding.logits(logits, self._normed, x, *self._ln_f, self._wte)
        return logits

    def decode(self, token: int) -> Array:
        """Append one token to the cache and return a new array of the logits (V,) that follow it.

        Raises:
            ValueError: The cache is full.
        """
        return self.prefill((token,))

    def _read_one(self, ids: NDArray[np.int32]) -> Array:
        """Takes one token through all blocks; gives the residual stream (C,) after them."""
        embedding.forward(self._x, ids, self._wte, self._wpe, 1, self.length)
        x: Array = self._x[0]
        for block in self._readers:
            block.read(x, self.length)
        return x

    def _read_chunk(self, ids: NDArray[np.int32]) -> Array:
        """Takes some tokens through all blocks; gives the residual stream (C,) of the last one after them.

        What the last block does with the other tokens is of use to nobody, but for their keys and values.
        """
        buffers, last = ChunkBuffers(self.parameters, ids.size), ChunkBuffers(self.parameters, 1)
        embedding.forward(buffers.x, ids, self._wte, self._wpe, ids.size, self.length)
        end = self.length + ids.size
        for w, cache in zip(self._blocks, self._caches, strict=True):
            self._extend_cache(w, cache, buffers)
            if w is self._blocks[-1]:
                last.x[:], last.qkv[:] = buffers.x[-1:], buffers.qkv[-1:]
                buffers = last
            self._finish_block(w, cache, buffers, end)
        x: Array = last.x[0]
        return x

    def _extend_cache(self, w: BlockTensors, cache: KVCache, buffers: ChunkBuffers) -> None:
        """Queries, keys and values of the tokens; keys and values go into the cache."""
        rows, C = buffers.x.shape
        layer_norm.forward(buffers.normed, buffers.mean, buffers.rstd, buffers.x, *w.ln_1)
        linear.forward(buffers.qkv, buffers.normed, *w.c_attn)
        cache.keys[0, self.length : self.length + rows] = buffers.qkv[:, C : 2 * C]
        cache.values[0, self.length : self.length + rows] = buffers.qkv[:, 2 * C :]

    def _finish_block(self, w: BlockTensors, cache: KVCache, buffers: ChunkBuffers, end: int) -> None:
        """The rest of the block, for tokens of which the last is at position `end` - 1."""
        C = buffers.x.shape[1]
        q, k, v = buffers.qkv[None, :, :C], cache.keys[:, :end], cache.values[:, :end]
        attention.forward(buffers.attended[None], buffers.log_sums, q, k, v, self._workspace.rows)
        linear.forward(buffers.x, buffers.attended, *w.attn_proj, buffers.x)
        layer_norm.forward(buffers.normed, buffers.mean, buffers.rstd, buffers.x, *w.ln_2)
        linear.forward(buffers.hidden, buffers.normed, *w.c_fc)
        gelu.forward(buffers.hidden, buffers.hidden)
        linear.forward(buffers.x, buffers.hidden, *w.mlp_proj, buffers.x)
