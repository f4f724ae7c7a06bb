"""Projection of a branch into the residual stream: a linear layer, dropout, and the sum.

y = x W + b + residual              without dropout
y = M * (x W + b) + residual        with M of `gpt_core.model.layers.dropout`
"""

from __future__ import annotations

from gpt_core.kernels import dropout
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.layer import LrGroup
from gpt_core.model.layers.linear import Linear


class Projection(Linear):
    """The linear layer c_proj of attention and MLP."""

    def __init__(
        self, name: str, in_features: int, out_features: int, lr_group: LrGroup, place: int, *, has_bias: bool = True
    ) -> None:
        super().__init__(name, in_features, out_features, "residual", lr_group, has_bias=has_bias)
        self._place = place

    def add_to(self, y: Array, x: Activations, residual: Array) -> None:
        """Write residual + M * (x W + b) to `y`."""
        if (drop := self.dropout) is None:
            self.forward(y, x, residual)
            return
        self.forward(y, x)
        # y = M * y + residual
        dropout.apply(y, y, drop.rate, drop.key(self._place), drop.first_row, residual)

    def branch_gradient(self, d_y: Array, scratch: Array) -> Array:
        """Return the gradient of x W + b for that of the sum: `d_y` itself, or M * d_y in `scratch`, both (N, C)."""
        if (drop := self.dropout) is None:
            return d_y
        # d_branch = M * d_y
        dropout.apply(scratch, d_y, drop.rate, drop.key(self._place), drop.first_row)
        return scratch
