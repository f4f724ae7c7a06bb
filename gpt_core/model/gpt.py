"""The GPT model: loss, gradients, evaluation and logits of batches of tokens.

`gpt_core.model.layers.transformer` composes the layers; each file beside it is one layer. After any call, the layers of
`GPT.transformer` hold the activations of the last batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import threads
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.buffers import BACKWARD, FORWARD, BatchShape, BufferPool, Use
from gpt_core.model.layers.dropout import Dropout
from gpt_core.model.layers.layer import Ids, Tensors
from gpt_core.model.layers.transformer import Transformer
from gpt_core.model.parameters import Parameters
from gpt_core.model.precision import ProductFormat


class EvalSums(NamedTuple):
    """Sums over the targets of a batch."""

    loss_sum: float
    """in nats"""
    correct: int
    """targets that are the most probable token"""
    targets: int


class Gradients(Protocol):
    """Where gradients accumulate: `Parameters`, or buffers that blocks share if `layer_done` empties them."""

    shape: ModelShape
    """shape of the model"""

    @property
    def tensors(self) -> Tensors:
        """The gradient of each parameter, by name."""


class GPT:
    """A GPT model on one set of weights.

    Buffers are allocated for the shape of a batch and reused for every batch of the same shape. All calls share them:
    use one instance from one thread at a time.
    """

    def __init__(
        self, parameters: Parameters, products: ProductFormat = "float32", frozen: frozenset[str] = frozenset()
    ) -> None:
        """Create a model on these weights.

        Args:
            parameters: Weights, read and never copied.
            products: Number format of the matrix products.
            frozen: Names of parameters whose gradients are not needed; most of them are not computed.
        """
        self.parameters = parameters
        self.shape = parameters.shape
        self.products: ProductFormat = products
        self._frozen = frozen
        self.transformer = self._new_transformer()
        self._size: BatchShape | None = None
        self._batch: BatchShape | None = None
        self._has_gradient_buffers = False

    def loss_and_gradients(
        self,
        tokens: Ids,
        targets: Ids,
        gradients: Gradients,
        weight: float,
        dropout: Dropout | None = None,
        layer_done: Callable[[int], None] | None = None,
    ) -> tuple[float, int]:
        """Run forward and backward, and add weight * d(sum of losses) / d(parameter) to `gradients`.

        Denormal numbers count as 0.

        Args:
            tokens: Ids (B, T).
            targets: Ids (B, T) that follow each token; -1 for none.
            gradients: Where the gradients accumulate.
            weight: For the mean loss over a batch, one over the number of targets of the complete batch.
            dropout: Dropout of this pass; None for none. All other calls are without it.
            layer_done: Called with the number of each block, from the last one on, once the gradients of its
                parameters, and of those above it, are complete.

        Returns:
            The sum of the losses in nats, and the number of targets.

        Raises:
            ValueError: The arrays do not fit together or the model.
        """
        self._check(tokens, targets, gradients)
        self._allocate(tokens, with_gradients=True)
        self.transformer.drop(dropout)
        try:
            with threads.Bound(), threads.DenormalsFlushed():
                loss_sum = self.transformer.forward_backward(tokens, targets, gradients.tensors, weight, layer_done)
        finally:
            self.transformer.drop(None)
        self._batch = self._size
        return loss_sum, int(np.count_nonzero(targets >= 0))

    def evaluate(self, tokens: Ids, targets: Ids) -> EvalSums:
        """Run forward alone, and return how well tokens (B, T) predict targets (B, T), of which -1 means none.

        Raises:
            ValueError: The arrays do not fit together or the model.
        """
        self._check(tokens, targets)
        self._allocate(tokens)
        flat, head = targets.reshape(-1), self.transformer.head
        with threads.Bound():
            loss_sum = head.forward(self.transformer.forward(tokens), flat)
        correct = int(np.count_nonzero(head.predictions == flat))
        self._batch = self._size
        return EvalSums(loss_sum, correct, int(np.count_nonzero(flat >= 0)))

    def logits(self, tokens: Ids) -> Array:
        """Return a new array of the logits (B, T, V) of tokens (B, T), which training never needs at once.

        Raises:
            ValueError: The tokens do not fit the model.
        """
        x = self.forward(tokens)
        logits = np.empty((tokens.size, self.shape.vocab_size), dtype=np.float32)
        for rows, slice_logits in self.transformer.head.logits_by_slice(x):
            logits[rows] = slice_logits
        return logits.reshape(*tokens.shape, self.shape.vocab_size)

    def forward(self, tokens: Ids) -> Activations:
        """Run forward up to the head, whose input (N, C) is returned and valid until the next call.

        Raises:
            ValueError: The tokens do not fit the model.
        """
        self._check(tokens)
        self._allocate(tokens)
        x = self.transformer.forward(tokens)
        self._batch = self._size
        return x

    def logits_of_residual(
        self, residual: Array, rows: NDArray[np.intp] | None = None
    ) -> Iterator[tuple[slice, Array]]:
        """Yield (part, logits of this part) of a residual stream: final norm and head applied to it.

        Every part uses the same buffer.

        Args:
            residual: Residual stream (N, C) of any layer, for the batch shape of the last call.
            rows: Rows of it to use, which the parts then count; None for all.

        Raises:
            ValueError: There was no last call, it failed, or the residual stream is of another batch shape.
        """
        _ = self.batch  # raises ValueError
        ln_out = self.transformer.ln_f.forward(residual)
        return self.transformer.head.logits_by_slice(ln_out if rows is None else ln_out[rows])

    @property
    def batch(self) -> BatchShape:
        """Shape of the last batch, whose activations the layers hold.

        Raises:
            ValueError: There was none, or the last call failed.
        """
        if self._batch is None:
            raise ValueError("tokens: got none, and the model holds no batch of an earlier call; pass token ids (B, T)")
        return self._batch

    @contextlib.contextmanager
    def using(self, parameters: Parameters) -> Iterator[None]:
        """Compute with other weights of the same shape within a `with` block."""
        own = self.parameters
        self._use(parameters)
        try:
            yield
        finally:
            self._use(own)

    def _use(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.transformer.bind(parameters.tensors)

    def _check(self, tokens: Ids, targets: Ids | None = None, gradients: Gradients | None = None) -> None:
        """Raise ValueError for arrays that do not fit together. The last batch is then gone, as after any failure."""
        self._batch = None
        if tokens.ndim != 2 or tokens.shape[0] < 1 or not 1 <= tokens.shape[1] <= self.shape.seq_len:
            raise ValueError(
                f"tokens: got shape {tokens.shape}, expected (B, T) with B of at least 1 and T from 1 to "
                f"{self.shape.seq_len}"
            )
        if targets is not None and targets.shape != tokens.shape:
            raise ValueError(f"targets: got shape {targets.shape}, expected that of the tokens, {tokens.shape}")
        if gradients is not None and gradients.shape != self.shape:
            raise ValueError(f"gradients: got those of {gradients.shape}, expected those of {self.shape}")

    def _allocate(self, tokens: Ids, *, with_gradients: bool = False) -> None:
        """Allocate buffers for tokens (B, T), unless those of the last batch fit."""
        batch, time = tokens.shape
        size = BatchShape(batch, time, threads.get_threads())
        held = self._size
        if held is None or held[:2] != size[:2] or held.threads < size.threads:
            self._size, self._has_gradient_buffers = None, False
            self.transformer = self._new_transformer()  # frees the old buffers before new ones are allocated
            self._add_buffers(size, FORWARD)
            self._size = held = size
        if with_gradients and not self._has_gradient_buffers:
            self._add_buffers(held, BACKWARD)
            self._has_gradient_buffers = True

    def _new_transformer(self) -> Transformer:
        """Return the layers on the model's weights, without buffers."""
        transformer = Transformer(self.shape)
        transformer.bind(self.parameters.tensors)
        transformer.multiply_in(self.products)
        transformer.freeze(self._frozen)
        return transformer

    def _add_buffers(self, size: BatchShape, uses: frozenset[Use]) -> None:
        pool = BufferPool(buffer for buffer in self.transformer.buffers(size) if buffer.use in uses)
        self.transformer.allocate(size, uses, pool)
