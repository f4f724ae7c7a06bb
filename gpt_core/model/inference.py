"""Autoregressive decoding with a KV cache: prefill a prompt, then decode token by token.

This is a second version of the forward pass, held to `gpt_core.model.gpt` by tests. It binds the same layers for their
weights and has buffers of its own: a prompt is read in chunks by the kernels of the full forward pass, a single token
by one fused kernel per block (`gpt_core.kernels.decoding`). Weights may be stored in fewer bits
(`gpt_core.model.stored_weights`): the fused kernel reads them as they are stored, a chunk expands one matrix at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import attention, conversion, decoding, embedding, linear, threads
from gpt_core.kernels.arrays import Array, as_ids, empty, whole_lines, zeros
from gpt_core.model.layers.block import Block
from gpt_core.model.layers.linear import Linear
from gpt_core.model.layers.norm import LayerNorm
from gpt_core.model.layers.rms_norm import RMSNorm
from gpt_core.model.layers.transformer import Transformer
from gpt_core.model.parameters import Parameters
from gpt_core.model.precision import PRECISION
from gpt_core.model.stored_weights import StoredWeights, columns_of

PREFILL_CHUNK = 512  # tokens of a prompt that are read at once: bounds the buffers; weights are packed once per chunk


class KVCache:
    """Keys and values (H, T, D) of one layer, filled from the first position on: float32, or the bits of bfloat16."""

    def __init__(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        self.keys = keys
        self.values = values


def kv_caches(shape: ModelShape, *, bfloat16: bool = False) -> list[KVCache]:
    """Return the empty caches of all layers.

    They are one allocation: Linux maps a large one with large pages, and a core reads these 1.3 times as fast.
    """
    dtype = np.dtype(np.uint16) if bfloat16 else PRECISION.activations.storage
    sizes = (shape.num_heads, shape.seq_len, shape.head_size)
    count = math.prod(sizes)
    memory = empty(shape.layers, 2, whole_lines(count, dtype.itemsize), dtype=dtype)
    return [KVCache(keys[:count].reshape(sizes), values[:count].reshape(sizes)) for keys, values in memory]


class ChunkBuffers:
    """Activations of `rows` tokens that are read at once; all blocks use the same."""

    def __init__(self, shape: ModelShape, rows: int) -> None:
        C = shape.d_model
        self.x, self.ln_out, self.attn_out = empty(rows, C), empty(rows, C), empty(rows, C)
        self.mean, self.rstd = empty(rows), empty(rows)
        self.qkv = empty(rows, 3 * C)
        self.qk, self.qk_rstd = self.qkv, empty(0)
        if shape.qk_norm:
            self.qk, self.qk_rstd = empty(rows, 2 * C), empty(rows, 2 * shape.num_heads)
        self.queries = self.qk[:, :C]
        self.act_out = self.hidden = empty(rows, shape.hidden_size)
        if shape.mlp == "swiglu":
            self.hidden = empty(rows, 2 * shape.hidden_size)
        self.lse = empty(shape.num_heads, 1, rows)


class Decoder:
    """The model on one sequence: appends tokens to a KV cache and returns the logits of the next token.

    Computes the same logits as the full forward pass, for the cost of the new tokens alone. The weights must not change
    between `reset` and the last call.
    """

    def __init__(self, weights: Parameters | StoredWeights) -> None:
        """Create a decoder with an empty cache; weights of fewer bits have a cache in bfloat16."""
        self.shape = shape = weights.shape
        self.capacity = shape.seq_len
        self.length = 0
        if isinstance(weights, Parameters):
            weights = StoredWeights(weights)  # float32: not copied
        self._stored = weights.format != "float32"
        self._bfloat16 = weights.products == "bfloat16"
        self._transformer = Transformer(shape)
        tensors: Any = weights.tensors  # the layers only hold them
        self._transformer.bind(tensors)
        self._caches = kv_caches(shape, bfloat16=self._stored)
        self._expanded = empty(0)  # scratch for one matrix of a chunk
        self._fused_blocks = [
            _fused_block(block, cache, shape)
            for block, cache in zip(self._transformer.blocks, self._caches, strict=True)
        ]
        self._ln_f = _norm_tensors(self._transformer.ln_f)
        self._x, self._ln_out = empty(1, shape.d_model), empty(shape.d_model)
        self._workspace = empty(0, 0)

    def reset(self) -> None:
        """Empty the cache."""
        self.length = 0

    def prefill(self, tokens: Sequence[int] | NDArray[np.int32]) -> Array:
        """Append tokens to the cache and return a new array of the logits (V,) that follow the last one.

        Raises:
            ValueError: There are no tokens, they are not ids of the vocabulary, or the cache has no room for them.
        """
        ids = as_ids(tokens)
        if ids.ndim != 1 or ids.size == 0:
            raise ValueError(f"tokens: got shape {ids.shape}, expected (T,) with T of at least 1")
        if ids.min() < 0 or ids.max() >= self.shape.vocab_size:  # before the first chunk is appended
            raise ValueError(f"tokens: got ids {ids.min()} to {ids.max()}, expected 0 to {self.shape.vocab_size - 1}")
        return self._append(ids)

    def decode(self, token: int) -> Array:
        """Append one token to the cache and return a new array of the logits (V,) that follow it.

        Raises:
            ValueError: The id is not in the vocabulary, or the cache is full.
        """
        if not 0 <= token < self.shape.vocab_size:  # cheaper than as_ids, once per token
            raise ValueError(f"token: got {token}, expected 0 to {self.shape.vocab_size - 1}")
        return self._append(np.array((token,), np.int32))

    def _append(self, ids: NDArray[np.int32]) -> Array:
        """Append ids (T,) to the cache and return the logits (V,) that follow the last one."""
        if self.length + ids.size > self.capacity:
            raise ValueError(
                f"decoder: got {ids.size} tokens after {self.length}, expected at most {self.capacity} in all"
            )
        for first in range(0, ids.size, PREFILL_CHUNK):
            chunk = ids[first : first + PREFILL_CHUNK]
            x = self._append_one(chunk) if chunk.size == 1 else self._append_chunk(chunk)
            self.length += chunk.size
        head = self._transformer.head.weight
        logits = empty(self.shape.vocab_size, dtype=PRECISION.compute.storage)
        # logits = ln_f(x) Wᵀ
        decoding.logits(logits, self._ln_out, x, *self._ln_f, head, self.shape.norm == "rms_norm")
        return logits

    def _append_one(self, ids: NDArray[np.int32]) -> Array:
        """Run one token through all blocks; return the residual stream (C,) after them."""
        self._embed(self._x, ids)
        x0 = self._x.copy() if self.shape.x0_shortcut else self._x
        x: Array = self._x[0]
        for block, fused in zip(self._transformer.blocks, self._fused_blocks, strict=True):
            if block.x0_shortcut:
                block.x0_shortcut.add(self._x, self._x, x0)
            fused.read(x, self.length)
        return x

    def _append_chunk(self, ids: NDArray[np.int32]) -> Array:
        """Run several tokens through all blocks; return the residual stream (C,) of the last one after them.

        The last block computes keys and values of all tokens, and the rest for the last token alone.
        """
        buffers, last = ChunkBuffers(self.shape, ids.size), ChunkBuffers(self.shape, 1)
        self._embed(buffers.x, ids)
        x0 = buffers.x.copy() if self.shape.x0_shortcut else buffers.x
        end = self.length + ids.size
        for block, cache in zip(self._transformer.blocks, self._caches, strict=True):
            if block.x0_shortcut:
                block.x0_shortcut.add(buffers.x, buffers.x, x0)
            self._extend_cache(block, cache, buffers)
            if block is self._transformer.blocks[-1]:
                last.x[:], last.queries[:] = buffers.x[-1:], buffers.queries[-1:]
                buffers = last
            self._finish_block(block, cache, buffers, end)
        x: Array = last.x[0]
        return x

    def _embed(self, x: Array, ids: NDArray[np.int32]) -> None:
        """Write the residual stream before the first block, for tokens from position `length` on."""
        wte, wpe = self._transformer.embedding.wte, self._transformer.embedding.wpe
        if self._stored:
            wte, ids = columns_of(wte, ids), np.arange(ids.size, dtype=np.int32)
        embedding.forward(x, ids, wte, wpe, ids.size, self.length)

    def _linear(self, y: Array, x: Array, layer: Linear, residual: Array | None = None) -> None:
        """Write x W + b to `y`, plus `residual` if given; W is expanded to float32 if it is stored in fewer bits."""
        weight: Any = layer.weight
        if self._stored:
            size = layer.in_features * layer.out_features
            if self._expanded.size < size:
                self._expanded = empty(size)
            expanded = self._expanded[:size].reshape(layer.in_features, layer.out_features)
            conversion.expand(expanded, weight)
            weight = expanded
        linear.forward(y, x, weight, layer.bias, residual, bfloat16=self._bfloat16)

    def _cached(self, cache: NDArray[Any], end: int) -> Array:
        """Return the first `end` positions of a cache as float32, (H, end, D)."""
        if not self._stored:
            return cache[:, :end]
        heads, _, size = cache.shape
        values = empty(heads, end, size)
        conversion.from_bfloat16(values.reshape(heads, -1), cache.reshape(heads, -1)[:, : end * size])
        return values

    def _extend_cache(self, block: Block, cache: KVCache, buffers: ChunkBuffers) -> None:
        """Compute queries, keys and values of the tokens; append keys and values to the cache."""
        (rows, C), attn, end = buffers.x.shape, block.attn, self.length + len(buffers.x)
        # qkv = ln_1(x) W_attn + b_attn
        block.ln_1.normalize(buffers.ln_out, buffers.x, buffers.rstd, buffers.mean)
        self._linear(buffers.qkv, buffers.ln_out, attn.c_attn)
        if attn.qk_norm:
            attn.qk_norm.forward(buffers.qk, buffers.qk_rstd, buffers.qkv)
        if attn.rotary:
            attn.rotary.forward(buffers.qk, rows, self.length)
        for stored, new in ((cache.keys, buffers.qk[:, C : 2 * C]), (cache.values, buffers.qkv[:, 2 * C :])):
            values: NDArray[Any] = new
            if self._stored:
                values = empty(rows, C, dtype=stored.dtype)
                conversion.to_bfloat16(values, new)
            stored[:, self.length : end] = self._by_head(values)

    def _finish_block(self, block: Block, cache: KVCache, buffers: ChunkBuffers, end: int) -> None:
        """Compute the rest of the block for tokens of which the last has position `end` - 1."""
        out, q = self._by_head(buffers.attn_out), self._by_head(buffers.queries)
        k, v = self._cached(cache.keys, end), self._cached(cache.values, end)
        # x += softmax(q kᵀ / sqrt(D)) v W_proj + b_proj; each head is a sequence of its own to the kernel
        attention.forward(out, buffers.lse, q, k, v, self._attention_workspace(), bfloat16=self._bfloat16)
        self._linear(buffers.x, buffers.attn_out, block.attn.c_proj, buffers.x)
        # x += f(ln_2(x) W_fc + b_fc) W_proj + b_proj
        block.ln_2.normalize(buffers.ln_out, buffers.x, buffers.rstd, buffers.mean)
        self._linear(buffers.hidden, buffers.ln_out, block.mlp.c_fc)
        block.mlp.activate(buffers.act_out, buffers.hidden)
        self._linear(buffers.x, buffers.act_out, block.mlp.c_proj, buffers.x)

    def _by_head(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return a view (H, rows, D) of rows (rows, C)."""
        return rows.reshape(len(rows), self.shape.num_heads, -1).transpose(1, 0, 2)

    def _attention_workspace(self) -> Array:
        """Return scratch memory of the attention kernel, one row per thread."""
        n_threads = threads.get_threads()
        if self._workspace.shape[0] < n_threads:
            self._workspace = empty(n_threads, attention.workspace_size(self.capacity, self.shape.head_size))
        return self._workspace


def _fused_block(block: Block, cache: KVCache, shape: ModelShape) -> decoding.Block:
    """Return the fused kernel of a block: all of its forward pass for one token."""
    attn, mlp = block.attn, block.mlp
    norms = {} if attn.qk_norm is None else {"q_norm": attn.qk_norm.q_weight, "k_norm": attn.qk_norm.k_weight}
    tables = {} if attn.rotary is None else dict(zip(("cos", "sin"), attn.rotary.tables, strict=True))
    return decoding.Block(
        _norm_tensors(block.ln_1), _linear_tensors(attn.c_attn), _linear_tensors(attn.c_proj),
        _norm_tensors(block.ln_2), _linear_tensors(mlp.c_fc), _linear_tensors(mlp.c_proj),
        cache.keys, cache.values,
        rms_norm=shape.norm == "rms_norm", mlp=shape.mlp, **norms, **tables,
    )  # fmt: skip


def _norm_tensors(norm: LayerNorm | RMSNorm) -> tuple[Array, Array]:
    """Return weight and bias of a norm; a bias of 0 if it has none."""
    return norm.weight, zeros(norm.weight.size) if norm.bias is None else norm.bias


def _linear_tensors(layer: Linear) -> tuple[Any, Array]:
    """Return weight, as it is stored, and bias of a linear layer; a bias of 0 if it has none."""
    return layer.weight, zeros(layer.out_features) if layer.bias is None else layer.bias
