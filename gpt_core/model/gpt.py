"""The whole model: GPT-2's forward pass, and the backward pass as its mirror (Radford et al. 2019).

    x = wte[tokens] + wpe[positions]
    for each block:  x = x + attn_proj(attention(c_attn(ln_1(x))));  x = x + mlp_proj(gelu(c_fc(ln_2(x))))
    logits = ln_f(x) . wte^T

The legend of shapes is in `gpt_core.kernels`. Every line below is one kernel on named buffers: what it reads and writes
can be looked at after any call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.kernels import attention, cross_entropy, embedding, gelu, layer_norm, linear
from gpt_core.kernels.arrays import Array
from gpt_core.model.activations import Activations, BlockActivations, GradientScratch
from gpt_core.model.blocks import BlockTensors, block_tensors, pair
from gpt_core.model.parameters import Parameters

Ids = NDArray[np.int32]


class Score(NamedTuple):
    """Sums over the targets of a batch: loss in nats, hits of the likeliest token, and how many targets there were."""

    loss_sum: float
    correct: int
    targets: int


class GPT:
    """The passes over one set of weights. Not for use from two threads at once: the buffers are shared by all calls."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.shape = parameters.shape
        self.blocks = block_tensors(parameters)
        self.ln_f = pair(parameters, "ln_f")
        self.wte = parameters["wte.weight"]
        self.wpe = parameters["wpe.weight"]
        self._activations: Activations | None = None
        self._scratch: GradientScratch | None = None

    def loss_and_gradients(self, tokens: Ids, targets: Ids, gradients: Parameters, weight: float) -> tuple[float, int]:
        """Forward and backward of tokens (B, T) with targets (B, T), of which -1 means none.

        Adds weight * d(sum of losses)/d(parameter) to `gradients`; gives the sum of losses in nats and the number of
        targets. For the mean loss over a batch, weight is one over the targets of the whole batch.
        """
        self._check(tokens, targets, gradients)
        buffers = self._forward(tokens)
        if self._scratch is None:
            self._scratch = GradientScratch(self.shape, *tokens.shape)
        scratch = self._scratch
        loss_sum, counted = self._head_backward(buffers, scratch, targets, gradients, weight)
        d_blocks = block_tensors(gradients)
        for layer in reversed(range(self.shape.layers)):
            self._block_backward(layer, buffers, scratch, d_blocks[layer])
        embedding.backward(
            gradients["wte.weight"], gradients["wpe.weight"], tokens.reshape(-1), scratch.d_residual, buffers.time
        )
        return loss_sum, counted

    def score(self, tokens: Ids, targets: Ids) -> Score:
        """Forward alone: how well tokens (B, T) predict targets (B, T), of which -1 means none."""
        self._check(tokens, targets)
        buffers = self._forward(tokens)
        flat = targets.reshape(-1)
        for rows, logits in self._logits_by_rows(buffers):
            cross_entropy.forward(buffers.losses[rows], buffers.predictions[rows], logits, flat[rows])
        counted = int(np.count_nonzero(flat >= 0))
        loss_sum = float(buffers.losses.sum(dtype=np.float64))
        return Score(loss_sum, int(np.count_nonzero(buffers.predictions == flat)), counted)

    def logits(self, tokens: Ids) -> Array:
        """Logits (B, T, V) of tokens (B, T): a whole array, for looking at; training never makes one."""
        self._check(tokens)
        buffers = self._forward(tokens)
        every = np.empty((tokens.size, self.shape.vocab_size), dtype=np.float32)
        for rows, logits in self._logits_by_rows(buffers):
            every[rows] = logits
        return every.reshape(*tokens.shape, self.shape.vocab_size)

    def buffers(self, batch: int, time: int) -> Activations:
        """The activations of the last pass of this shape; allocated anew when the shape changes."""
        held = self._activations
        if held is None or (held.batch, held.time) != (batch, time):
            self._activations = self._scratch = None  # free before allocating
            self._activations = held = Activations(self.shape, batch, time)
        return held

    def _check(self, tokens: Ids, targets: Ids | None = None, gradients: Parameters | None = None) -> None:
        """Raises ValueError for arrays that do not belong together."""
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.shape.seq_len:
            raise ValueError(f"tokens: got shape {tokens.shape}, want (B, T) with T from 1 to {self.shape.seq_len}")
        if targets is not None and targets.shape != tokens.shape:
            raise ValueError(f"targets: got shape {targets.shape}, want that of the tokens, {tokens.shape}")
        if gradients is not None and gradients.shape != self.shape:
            raise ValueError(f"gradients: got those of {gradients.shape}, want those of {self.shape}")

    # ---- the embedding and the blocks

    def _forward(self, tokens: Ids) -> Activations:
        """Fills the activations up to ln_f's output, which is left in `normed`."""
        buffers = self.buffers(*tokens.shape)
        embedding.forward(buffers.residual[0], tokens.reshape(-1), self.wte, self.wpe, buffers.time)
        for layer in range(self.shape.layers):
            self._block_forward(layer, buffers)
        layer_norm.forward(buffers.normed, buffers.mean_f, buffers.rstd_f, buffers.residual[-1], *self.ln_f)
        return buffers

    def _block_forward(self, layer: int, buffers: Activations) -> None:
        w, kept = self.blocks[layer], buffers.blocks[layer]
        x, y = buffers.residual[layer], buffers.residual[layer + 1]
        # attention branch: middle = x + attn_proj(attention(c_attn(ln_1(x))))
        layer_norm.forward(buffers.normed, kept.mean_1, kept.rstd_1, x, *w.ln_1)
        linear.forward(kept.qkv, buffers.normed, *w.c_attn)
        attention.forward(kept.attended_by_batch, kept.log_sums, kept.q, kept.k, kept.v, buffers.workspace.rows)
        linear.forward(kept.middle, kept.attended, *w.attn_proj, x)
        # MLP branch: y = middle + mlp_proj(gelu(c_fc(ln_2(middle))))
        layer_norm.forward(buffers.normed, kept.mean_2, kept.rstd_2, kept.middle, *w.ln_2)
        linear.forward(kept.hidden, buffers.normed, *w.c_fc)
        gelu.forward(buffers.activated, kept.hidden)
        linear.forward(y, buffers.activated, *w.mlp_proj, kept.middle)

    def _block_backward(self, layer: int, buffers: Activations, scratch: GradientScratch, d_w: BlockTensors) -> None:
        """Turns the gradient at the block's output, in d_residual, into the one at its input."""
        w, kept = self.blocks[layer], buffers.blocks[layer]
        self._mlp_backward(w, d_w, kept, buffers, scratch)
        x = buffers.residual[layer]
        linear.backward(scratch.d_branch, *d_w.attn_proj, scratch.d_residual, kept.attended, w.attn_proj.weight)
        attention.backward(
            scratch.d_q, scratch.d_k, scratch.d_v, scratch.d_branch_by_batch, kept.attended_by_batch, kept.log_sums,
            kept.q, kept.k, kept.v, buffers.workspace.rows,
        )  # fmt: skip
        layer_norm.forward(buffers.normed, kept.mean_1, kept.rstd_1, x, *w.ln_1)  # again: it was not kept
        linear.backward(scratch.d_branch, *d_w.c_attn, scratch.d_qkv, buffers.normed, w.c_attn.weight)
        layer_norm.backward(scratch.d_residual, *d_w.ln_1, scratch.d_branch, x, kept.mean_1, kept.rstd_1, w.ln_1.weight)

    def _mlp_backward(
        self, w: BlockTensors, d_w: BlockTensors, kept: BlockActivations, buffers: Activations, scratch: GradientScratch
    ) -> None:
        gelu.forward(buffers.activated, kept.hidden)  # again: it was not kept
        linear.backward(scratch.d_hidden, *d_w.mlp_proj, scratch.d_residual, buffers.activated, w.mlp_proj.weight)
        gelu.backward(scratch.d_hidden, scratch.d_hidden, kept.hidden)
        layer_norm.forward(buffers.normed, kept.mean_2, kept.rstd_2, kept.middle, *w.ln_2)  # again: it was not kept
        linear.backward(scratch.d_branch, *d_w.c_fc, scratch.d_hidden, buffers.normed, w.c_fc.weight)
        layer_norm.backward(
            scratch.d_residual, *d_w.ln_2, scratch.d_branch, kept.middle, kept.mean_2, kept.rstd_2, w.ln_2.weight
        )

    # ---- the head: logits and loss over slices of rows

    def _logits_by_rows(self, buffers: Activations) -> Iterator[tuple[slice, Array]]:
        """logits (R, V) = normed (R, C) . wte^T (C, V) for one slice of rows after the other, in the same buffer."""
        for first in range(0, buffers.normed.shape[0], buffers.logit_rows):
            rows = slice(first, min(first + buffers.logit_rows, buffers.normed.shape[0]))
            logits = buffers.logits[: rows.stop - rows.start]
            linear.product(logits, buffers.normed[rows], self.wte, transpose_b=True)
            yield rows, logits

    def _head_backward(
        self, buffers: Activations, scratch: GradientScratch, targets: Ids, gradients: Parameters, weight: float
    ) -> tuple[float, int]:
        """Loss, and the gradient at the last block's output, in d_residual."""
        flat = targets.reshape(-1)
        for rows, logits in self._logits_by_rows(buffers):
            cross_entropy.forward_backward(buffers.losses[rows], logits, flat[rows], weight)
            # d_normed (R, C) = d_logits (R, V) . wte (V, C);  d_wte (V, C) += d_logits^T . normed
            linear.product(scratch.d_branch[rows], logits, self.wte)
            linear.product(gradients["wte.weight"], logits, buffers.normed[rows], transpose_a=True, accumulate=True)
        scratch.d_residual.fill(0.0)
        layer_norm.backward(
            scratch.d_residual, *pair(gradients, "ln_f"), scratch.d_branch, buffers.residual[-1],
            buffers.mean_f, buffers.rstd_f, self.ln_f.weight,
        )  # fmt: skip
        return float(buffers.losses.sum(dtype=np.float64)), int(np.count_nonzero(flat >= 0))
