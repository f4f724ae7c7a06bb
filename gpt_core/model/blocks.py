"""The tensors of one block by role, as the passes use them: of weights or, with the same names, of gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.model.parameters import Parameters


class Pair(NamedTuple):
    """Weight and bias of one norm or linear layer."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


class BlockTensors(NamedTuple):
    """One block: ln_1 -> c_attn -> attention -> attn_proj -> + -> ln_2 -> c_fc -> GELU -> mlp_proj -> +."""

    ln_1: Pair
    c_attn: Pair
    attn_proj: Pair
    ln_2: Pair
    c_fc: Pair
    mlp_proj: Pair


def pair(parameters: Parameters, name: str) -> Pair:
    """The tensors `name`.weight and `name`.bias."""
    return Pair(parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def block_tensors(parameters: Parameters) -> list[BlockTensors]:
    """The tensors of every block, first to last."""
    return [
        BlockTensors(
            pair(parameters, f"h.{layer}.ln_1"),
            pair(parameters, f"h.{layer}.attn.c_attn"),
            pair(parameters, f"h.{layer}.attn.c_proj"),
            pair(parameters, f"h.{layer}.ln_2"),
            pair(parameters, f"h.{layer}.mlp.c_fc"),
            pair(parameters, f"h.{layer}.mlp.c_proj"),
        )
        for layer in range(parameters.shape.layers)
    ]
