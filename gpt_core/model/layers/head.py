"""Language-model head: logits and cross-entropy loss.

    logits = x Wᵀ
    loss = log(sum(exp(logits))) - logits[target], in nats, for each target that is not -1

W is the token embedding (weight tying, Press and Wolf 2017) or, with `tied_head` false, a matrix of its own.

The logits of a batch, (N, V), would be the largest array of the model. They are computed for a slice of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import cross_entropy, gemm, linear
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.embedding import WTE
from gpt_core.model.layers.layer import Flops, Ids, Layer, ParameterSpec, Tensors
from gpt_core.model.precision import INT32, PRECISION

LOGITS_BUDGET = 4 * 1024 * 1024  # values of logits that exist at once: 16 MiB
TILES_LOGITS_BUDGET = 16 * 1024 * 1024  # with AMX: packing W for each slice takes as long as its products
MIN_LOGIT_ROWS = 16  # rows of one slice, however large the vocabulary
LM_HEAD = "lm_head.weight"
"""Matrix of the logits (V, C) of a model whose head is not tied."""


class Head(Layer):
    """Logits, loss, and the gradient of both."""

    weight: Array
    """W (V, C)"""
    logits: Array
    """(R, V): of one slice of rows; the backward pass replaces them by their gradient"""
    losses: Array
    """(N,): in nats; 0 where there is no target"""
    predictions: Ids
    """(N,): the most probable token"""
    d_x: Array
    """(N, C): gradient of the input"""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self._shape = shape
        self.weight_name = WTE if shape.tied_head else LM_HEAD

    def own_parameters(self) -> tuple[ParameterSpec, ...]:
        """Return W, unless it is that of the embedding."""
        if self._shape.tied_head:
            return ()
        return (ParameterSpec(LM_HEAD, (self._shape.vocab_size, self._shape.d_model), "normal", "unembed", True),)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return one slice of logits, losses and predictions; and what the layers share."""
        N, C, V = size.rows, self._shape.d_model, self._shape.vocab_size
        budget = TILES_LOGITS_BUDGET if gemm.has_tiles() else LOGITS_BUDGET
        slice_rows = min(N, max(MIN_LOGIT_ROWS, budget // V))
        return (
            Buffer("logits", (slice_rows, V), "scratch", dtype=PRECISION.compute),
            Buffer("losses", (N,), dtype=PRECISION.compute),
            Buffer("predictions", (N,), dtype=INT32),
            Buffer("d_x", (N, C), "gradient", "d_branch"),
        )

    def own_forward_flops(self, size: BatchShape, outputs: int) -> Flops:
        """Return the FLOPs of the logits: 2 N C V."""
        return Flops(logits=2 * size.batch * outputs * self._shape.d_model * self._shape.vocab_size)

    def bind(self, weights: Tensors) -> None:
        """Use these weights."""
        self.weight = weights[self.weight_name]

    def freeze(self, names: Set[str]) -> None:
        """Choose whether the gradient of the matrix is needed."""
        self.is_trained = self.weight_name not in names

    def logits_by_slice(self, x: Activations) -> Iterator[tuple[slice, Array]]:
        """Yield (rows, logits of these rows) for x (N, C). Every slice uses the same buffer."""
        for first in range(0, x.shape[0], self.logits.shape[0]):
            rows = slice(first, min(first + self.logits.shape[0], x.shape[0]))
            logits = self.logits[: rows.stop - rows.start]
            # logits (R, V) = x (R, C) Wᵀ (C, V)
            linear.product(logits, x[rows], self.weight, transpose_b=True, bfloat16=self.bfloat16)
            yield rows, logits

    def forward(self, x: Activations, targets: Ids) -> float:
        """Return the sum of the losses of targets (N,); `losses` and `predictions` hold those of each row."""
        for rows, logits in self.logits_by_slice(x):
            # loss = log(sum(exp(logits))) - logits[target];  prediction = argmax(logits)
            cross_entropy.forward(self.losses[rows], self.predictions[rows], logits, targets[rows])
        return float(self.losses.sum(dtype=np.float64))

    def forward_backward(self, x: Activations, targets: Ids, gradients: Tensors, weight: float) -> tuple[float, Array]:
        """Return the sum of the losses and `d_x`, the gradient of weight * sum of losses.

        The gradient of W is added to `gradients`, unless W is frozen.
        """
        d_weight = gradients[self.weight_name]
        for rows, logits in self.logits_by_slice(x):
            # d_logits = weight * (softmax(logits) - onehot(target)), in place of the logits
            cross_entropy.forward_backward(self.losses[rows], logits, targets[rows], weight)
            # d_x (R, C) = d_logits (R, V) W (V, C)
            linear.product(self.d_x[rows], logits, self.weight, bfloat16=self.bfloat16)
            if self.is_trained:
                # d_W (V, C) += d_logitsᵀ (V, R) x (R, C)
                linear.product(d_weight, logits, x[rows], transpose_a=True, accumulate=True, bfloat16=self.bfloat16)
        return float(self.losses.sum(dtype=np.float64)), self.d_x
