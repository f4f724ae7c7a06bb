"""The buffers of one forward and backward pass, allocated once for a batch shape and used again for every step.

What the backward pass needs of each block is kept; what is cheap to compute again (the outputs of layer norm and GELU)
is not: it lives in scratch that all blocks share.
"""

from __future__ import annotations

import numpy as np

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import attention, threads
from gpt_core.kernels.arrays import Array, empty

LOGITS_BUDGET = 4 * 1024 * 1024  # values of logits that exist at once: 16 MiB in place of all of (N, V)


class BlockActivations:
    """What one block keeps for its backward pass, for N = B * T rows. q, k and v are views of qkv."""

    def __init__(self, shape: ModelShape, batch: int, time: int) -> None:
        N, C = batch * time, shape.d_model
        self.mean_1, self.rstd_1 = empty(N), empty(N)
        self.qkv = empty(N, 3 * C)
        by_batch = self.qkv.reshape(batch, time, 3 * C)
        self.q, self.k, self.v = by_batch[..., :C], by_batch[..., C : 2 * C], by_batch[..., 2 * C :]
        self.log_sums = empty(batch, shape.num_heads, time)
        self.attended = empty(N, C)
        self.attended_by_batch = self.attended.reshape(batch, time, C)
        self.middle = empty(N, C)  # the residual stream between attention and MLP
        self.mean_2, self.rstd_2 = empty(N), empty(N)
        self.hidden = empty(N, shape.hidden_size)  # before GELU


class Activations:
    """All buffers for batches of (batch, time) tokens."""

    def __init__(self, shape: ModelShape, batch: int, time: int) -> None:
        N, C, F, V = batch * time, shape.d_model, shape.hidden_size, shape.vocab_size
        self.batch, self.time = batch, time
        self.residual = [
            empty(N, C) for _ in range(shape.layers + 1)
        ]  # the stream before each block, and after the last
        self.blocks = [BlockActivations(shape, batch, time) for _ in range(shape.layers)]
        self.mean_f, self.rstd_f = empty(N), empty(N)
        # shared scratch
        self.normed = empty(N, C)
        self.activated = empty(N, F)
        self.logit_rows = min(N, max(16, LOGITS_BUDGET // V))
        self.logits = empty(self.logit_rows, V)
        self.losses = empty(N)
        self.predictions = np.empty(N, dtype=np.int32)
        self.workspace = Workspace(time, shape.head_size)


class GradientScratch:
    """The gradients of activations, which live only from one kernel to the next."""

    def __init__(self, shape: ModelShape, batch: int, time: int) -> None:
        N, C = batch * time, shape.d_model
        self.d_residual = empty(N, C)
        self.d_branch = empty(N, C)  # at the input of a branch: a norm's output, or the attended values
        self.d_branch_by_batch = self.d_branch.reshape(batch, time, C)
        # the attention's and the MLP's never live at the same time: one buffer, seen in two ways
        wide = empty(N * max(shape.hidden_size, 3 * C))
        self.d_hidden = wide[: N * shape.hidden_size].reshape(N, shape.hidden_size)
        self.d_qkv = wide[: N * 3 * C].reshape(N, 3 * C)
        by_batch = self.d_qkv.reshape(batch, time, 3 * C)
        self.d_q, self.d_k, self.d_v = by_batch[..., :C], by_batch[..., C : 2 * C], by_batch[..., 2 * C :]


class Workspace:
    """Scratch of the attention kernel, a row for each thread, for sequences of up to `keys` positions."""

    def __init__(self, keys: int, head_size: int) -> None:
        self._row = attention.workspace_size(keys, head_size)
        self._rows = empty(threads.get_threads(), self._row)

    @property
    def rows(self) -> Array:
        """(threads, values): made anew when there are more threads than before."""
        if self._rows.shape[0] < threads.get_threads():
            self._rows = empty(threads.get_threads(), self._row)
        return self._rows
