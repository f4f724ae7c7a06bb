"""Health of the weights: norms, gradients, size of the updates, and MLP units that never fire."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gpt_core.interpret.activations import run
from gpt_core.kernels.arrays import Array, not_finite_is_expected
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters


class TensorStats(NamedTuple):
    """Statistics of one parameter tensor.

    Attributes:
        name: Name of the tensor.
        size: Number of values.
        norm: Euclidean norm of the values.
        gradient_norm: Euclidean norm of the gradient; None if no gradients were given.
        update_ratio: log10 of the norm of the last update over the norm of the values before it; -3 is usual. See
            `update_ratio` for values of 0. None if no previous weights were given.
    """

    name: str
    size: int
    norm: float
    gradient_norm: float | None = None
    update_ratio: float | None = None


def weight_stats(
    parameters: Parameters, gradients: Parameters | None = None, previous: Parameters | None = None
) -> list[TensorStats]:
    """Return statistics of every tensor, in the order of the forward pass.

    norm = sqrt(sum(w²)); update_ratio = log10(|w - w_previous| / |w_previous|), which Karpathy's makemore (2022, part
    3) plots per step.

    Args:
        parameters: Weights.
        gradients: Their gradients.
        previous: Weights before the last update.
    """
    return [
        TensorStats(
            name, tensor.size, _norm(tensor), None if gradients is None else _norm(gradients[name]),
            None if previous is None else update_ratio(tensor, previous[name]),
        )
        for name, tensor in parameters.tensors.items()
    ]  # fmt: skip


@not_finite_is_expected
def dead_units(model: GPT, tokens: ArrayLike | None = None) -> Array:
    """Return the fraction of each layer's MLP units that never fire on a batch (L,).

    A unit fires where its value before the activation is positive; GELU passes almost nothing of negative values
    (Hendrycks and Gimpel 2016). With SwiGLU it is the gate of the unit that counts.

    Args:
        model: The model. Its buffers are overwritten.
        tokens: Ids (B, T); None for the model's last batch, without a forward pass.

    Raises:
        ValueError: The tokens do not fit the model, or there is no last batch.
    """
    run(model, tokens)
    fired = [(block.mlp.units > 0).any(axis=0) for block in model.transformer.blocks]  # (F,) each
    return np.array([1.0 - units.mean() for units in fired], np.float32)


@not_finite_is_expected
def _norm(tensor: Array) -> float:
    return float(np.linalg.norm(tensor))


@not_finite_is_expected
def update_ratio(tensor: Array, previous: Array) -> float:
    """Return log10(|w - w_previous| / |w_previous|).

    It is -inf if no value has changed, and inf if all were 0 before. Values that are not finite give inf or NaN.
    """
    update, before = _norm(tensor - previous), _norm(previous)
    if update == 0.0:
        return -math.inf
    ratio = update / before if before else math.inf
    return math.log10(ratio) if ratio else -math.inf
