"""Muon for the matrices of the blocks (Jordan et al. 2024; Liu et al. 2025), AdamW for everything else.

Muon replaces the momentum of a matrix by approximately the nearest orthogonal matrix, so that all singular values of
the update are about equal. Embeddings, biases and norm weights, which are not linear maps between activations, are
updated by AdamW.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import muon, threads
from gpt_core.kernels.arrays import Array, empty
from gpt_core.model.layers.layer import LrGroup, ParameterSpec
from gpt_core.model.parameters import Parameters, Segment, frozen_names, parameter_table
from gpt_core.model.precision import PRECISION
from gpt_core.optim.adamw import update_segments
from gpt_core.optim.optimizer import Optimizer

ADAMW_WORK = 20  # operations per value


class Muon(Optimizer):
    """Muon and AdamW. The state is the momentum of all parameters (m) and, of those that AdamW updates, v.

    The matrix of queries, keys and values counts as three, that of gates and hidden units as two.
    """

    state_names: ClassVar[tuple[str, ...]] = ("muon_m", "adam_v")
    _workspace: Array = empty(0, 0)  # allocated by the first update

    @classmethod
    def state_parameters(cls, name: str, shape: ModelShape) -> tuple[str, ...]:
        """Return the parameters that a state tensor has values of: for v, those that AdamW updates."""
        return tuple(spec.name for spec in parameter_table(shape) if name == "muon_m" or not is_hidden_matrix(spec))

    @cached_property
    def _others(self) -> tuple[Segment, ...]:
        """Ranges of the parameters that AdamW updates."""
        hidden = frozenset(spec.name for spec in self.parameters.table if is_hidden_matrix(spec))
        return self.parameters.segments_without(self.frozen | hidden)

    @cached_property
    def _matrices(self) -> dict[LrGroup, NDArray[np.intp]]:
        """Matrices that Muon updates, as the kernel takes them, by learning rate."""
        found: dict[LrGroup, NDArray[np.intp]] = {}
        for group in ("attn", "mlp"):
            rows = [
                (self.parameters.start_of(spec.name) + first, spec.shape[0], width, spec.shape[1])
                for spec in self.parameters.table
                if is_hidden_matrix(spec) and spec.name not in self.frozen and spec.lr_group == group
                for first, width in column_ranges(spec)
            ]
            found[group] = np.array(rows, np.intp).reshape(-1, 4)
        return found

    @classmethod
    def scratch_bytes(cls, shape: ModelShape, n_threads: int) -> int:
        """Return the bytes of scratch memory of an update on this many threads."""
        return PRECISION.compute.bytes * n_threads * _workspace_size(shape)

    @classmethod
    def update_work(cls, shape: ModelShape, freeze: str = "") -> float:
        """Return the operations of an update: those of the orthogonalization, and those of AdamW for the rest."""
        frozen, work = frozen_names(shape, freeze), 0.0
        for spec in parameter_table(shape):
            if spec.name in frozen:
                continue
            if not is_hidden_matrix(spec):
                work += ADAMW_WORK * spec.size
                continue
            for _, width in column_ranges(spec):
                short, long = sorted((spec.shape[0], width))
                work += muon.ORTHOGONALIZATION_STEPS * (3 * short * short * long + short**3)  # half of G and of G^2
        return work

    def update(self, gradients: Parameters, step: int, lr_share: float, scale: float) -> None:
        """Update the parameters and the state in place; see `Optimizer.update`.

        For a matrix W (R, S) of a block, with g = scale * gradient and b = `muon_beta`:

            m = b m + (1 - b) g,  u = b m + (1 - b) g
            W = W - lr (0.2 sqrt(max(R, S)) orthogonal(u) + `weight_decay` W)

        with orthogonal(u) by an iteration of matrix products (`gpt_core.kernels.muon`), in the number format of the
        model's products. The factor gives updates of AdamW's size, so that both take the same learning rates. The
        other parameters are updated as by `AdamW`.
        """
        settings, m, v = self.settings, self.state["muon_m"], self.state["adam_v"]
        update_segments(self, self._others, gradients, m, v, step, lr_share, scale)
        if self._workspace.shape[0] < threads.get_threads():
            self._workspace = empty(threads.get_threads(), _workspace_size(self.parameters.shape))
        with threads.Bound():  # denormal momentum does not slow this: nearly all is products
            for group, matrices in self._matrices.items():
                muon.update(
                    self.parameters.flat, gradients.flat, m.flat, matrices, self._workspace,
                    self.learning_rates[group] * lr_share, settings.muon_beta, settings.weight_decay, scale,
                    settings.precision == "bfloat16",
                )  # fmt: skip


def is_hidden_matrix(spec: ParameterSpec) -> bool:
    """Return True for the matrices that Muon updates: the linear weights of the blocks."""
    return len(spec.shape) == 2 and spec.lr_group in ("attn", "mlp")


def column_ranges(spec: ParameterSpec) -> list[tuple[int, int]]:
    """Return (first, width) of the columns of each matrix that a tensor holds: queries, keys and values are three."""
    width = spec.shape[1] // spec.parts
    return [(part * width, width) for part in range(spec.parts)]


def _workspace_size(shape: ModelShape) -> int:
    """Return the values of scratch per thread."""
    matrices = [(spec.shape[0], width) for spec in parameter_table(shape) if is_hidden_matrix(spec)
                for _, width in column_ranges(spec)]  # fmt: skip
    return max(muon.workspace_size(*matrix) for matrix in matrices)
