"""Outer optimizer of rounds of local steps: Nesterov momentum on the mean change of the weights (DiLoCo).

Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models" (arXiv 2311.08105).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpt_core.config.settings import ModelShape, Settings
from gpt_core.kernels.arrays import not_finite_is_expected
from gpt_core.model.parameters import Parameters, frozen_names, parameter_count
from gpt_core.model.precision import PRECISION

OUTER_MOMENTUM = "outer_momentum"
"""Name of its state tensor: that of the parameter `wte.weight` is called `outer_momentum.wte.weight`."""

BLOCK = 1 << 18  # values that are updated at a time


class OuterOptimizer:
    """Nesterov momentum (Sutskever et al. 2013) on the mean change of the weights in a round of local steps.

    Attributes:
        momentum: Its state, one value per parameter.
    """

    def __init__(self, parameters: Parameters, settings: Settings, momentum: Parameters | None = None) -> None:
        """Create the optimizer of weights. Call `begin_round` before the first round.

        Args:
            parameters: Weights that `update` changes in place.
            settings: Hyper-parameters.
            momentum: State of a checkpoint; zeros if None. Changed in place by `update`.
        """
        self.momentum = momentum or Parameters(parameters.shape, PRECISION.compute)
        self._parameters = parameters
        self._start = parameters.copy()
        self._lr, self._beta = settings.outer_lr, settings.outer_momentum
        self._segments = parameters.segments_without(frozen_names(parameters.shape, settings.freeze))

    def begin_round(self) -> None:
        """Take the present weights as those at the start of a round."""
        self._start.copy_from(self._parameters)

    @not_finite_is_expected
    def change(self, out: Parameters) -> None:
        """Write the change of the weights since the start of the round to `out`."""
        np.subtract(self._parameters.flat, self._start.flat, out=out.flat)

    @not_finite_is_expected
    def update(self, change: Parameters) -> None:
        """Replace the weights by those at the start of the next round, and update the state.

        With the weights s at the start of this round, the mean d over the ranks of their changes since then, b =
        `outer_momentum` and lr = `outer_lr`:

            m = b m + d,  w = s + lr (d + b m)

        These are the weights of PyTorch's SGD(lr, momentum=b, nesterov=True) with the gradient -d. Changes that repeat
        from round to round are applied lr / (1 - b) times.

        Args:
            change: Mean change (overwritten), the same on all ranks.
        """
        for block in self._blocks():
            start, momentum, step = self._start.flat[block], self.momentum.flat[block], change.flat[block]
            momentum *= self._beta
            momentum += step
            step += self._beta * momentum
            step *= self._lr
            start += step
            self._parameters.flat[block] = start

    def _blocks(self) -> Iterator[slice]:
        """Yield ranges of the trained weights."""
        for segment in self._segments:
            for first in range(segment.start, segment.stop, BLOCK):
                yield slice(first, min(first + BLOCK, segment.stop))


def outer_bytes(shape: ModelShape) -> int:
    """Return the bytes of an outer optimizer: the weights at the start of the round, and the momentum."""
    return (PRECISION.weights.bytes + PRECISION.compute.bytes) * parameter_count(shape)


def create_outer_optimizer(
    parameters: Parameters, settings: Settings, momentum: Parameters | None = None
) -> OuterOptimizer | None:
    """Return the outer optimizer of a run, None for one whose ranks exchange gradients; see `OuterOptimizer`."""
    return OuterOptimizer(parameters, settings, momentum) if settings.sync_every_steps else None
