"""Arrays for the kernels are aligned to cache lines."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core.config.settings import ModelShape
from gpt_core.kernels.arrays import ALIGNMENT, empty, zeros
from gpt_core.model.activations import Activations, GradientScratch
from gpt_core.model.inference import KVCache

SHAPE = ModelShape(d_model=48, hidden_size=112, vocab_size=33, num_heads=4, seq_len=7, layers=2)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1000, 1000)])
def test_new_arrays_are_aligned_contiguous_float32(shape: tuple[int, ...]) -> None:
    for array in (empty(*shape), zeros(*shape)):
        assert array.shape == shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.ctypes.data % ALIGNMENT == 0


def test_zeros_returns_only_zeros() -> None:
    assert not zeros(257, 33).any()


def test_activations_gradients_and_cache_are_aligned_to_cache_lines() -> None:
    activations, scratch = Activations(SHAPE, 3, 7), GradientScratch(SHAPE, 3, 7)
    owners = [activations, *activations.blocks, scratch, KVCache(7, 48)]
    arrays = {
        name: array
        for owner in owners
        for name, array in vars(owner).items()
        if isinstance(array, np.ndarray) and name not in ("q", "k", "v", "d_q", "d_k", "d_v", "predictions")
    }
    assert len(arrays) > 15
    assert {name: array.ctypes.data % ALIGNMENT for name, array in arrays.items()} == dict.fromkeys(arrays, 0)
