"""Embedding: the sum of a token's vector and its position's vector, the start of the residual stream.

With rotary positions (`gpt_core.model.layers.rotary`) it is the token's vector alone.

In training with dropout, M of `gpt_core.model.layers.dropout` times that sum.
"""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import dropout, embedding
from gpt_core.kernels.arrays import Array
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.dropout import EMBEDDING
from gpt_core.model.layers.layer import Ids, Layer, ParameterSpec, Tensors

WTE = "wte.weight"
"""Token embeddings (V, C); also the matrix of the logits, if the head is tied (`gpt_core.model.layers.head`)."""
WPE = "wpe.weight"
"""Learned position embeddings (T, C)."""


class Embedding(Layer):
    """x = wte[token] + wpe[position]."""

    wte: Array
    wpe: Array | None
    out: Array
    """(N, C)"""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self._shape = shape

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """Return the tables; positions do not decay."""
        shape = self._shape
        tokens = ParameterSpec(WTE, (shape.vocab_size, shape.d_model), "normal", "unembed", True)
        if shape.positions == "rope":
            return (tokens,)
        return tokens, ParameterSpec(WPE, (shape.seq_len, shape.d_model), "normal", "pos", False)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the output, which is saved as the first block's input."""
        return (Buffer("out", (size.rows, self._shape.d_model)),)

    def bind(self, weights: Tensors) -> None:
        """Use these weights."""
        self.wte, self.wpe = weights[WTE], weights.get(WPE)

    def forward(self, tokens: Ids, time: int) -> Array:
        """Return the vectors of tokens (N,): sequences of `time` tokens, each from position 0."""
        # out = wte[token] + wpe[position]
        embedding.forward(self.out, tokens, self.wte, self.wpe, time)
        self._drop(self.out)
        return self.out

    def backward(self, d_out: Array, tokens: Ids, time: int, gradients: Tensors) -> None:
        """Add to the gradients of the tables. With dropout, `d_out` becomes the gradient of the sum."""
        self._drop(d_out)
        # d_wte[token] += d_out;  d_wpe[position] += d_out
        embedding.backward(gradients[WTE], gradients.get(WPE), tokens, d_out, time)

    def _drop(self, rows: Array) -> None:
        """Multiply the output, or its gradient, by M in place."""
        if (drop := self.dropout) is not None:
            # out = M * out;  d_out = M * d_out
            dropout.apply(rows, rows, drop.rate, drop.key(EMBEDDING), drop.first_row)
