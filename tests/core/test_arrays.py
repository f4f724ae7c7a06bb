"""Arrays for the kernels are aligned to cache lines."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core.config.settings import ModelShape
from gpt_core.kernels.arrays import ALIGNMENT, empty, zeros
from gpt_core.model.gpt import GPT
from gpt_core.model.inference import kv_caches
from gpt_core.model.layers.layer import Layer
from gpt_core.model.parameters import Parameters

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


def layer_arrays(layer: Layer, name: str = "") -> dict[str, np.ndarray]:
    """Return the buffers of a layer and its sublayers; views of an array such as q, k and v are left out."""
    own = {
        f"{name}.{attribute}": array
        for attribute, array in vars(layer).items()
        if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.c_contiguous
    }
    for i, sublayer in enumerate(layer.sublayers):
        own |= layer_arrays(sublayer, f"{name}.{i}")
    return own


def test_buffers_and_kv_cache_are_aligned_to_cache_lines() -> None:
    parameters = Parameters(SHAPE)
    model = GPT(parameters)
    tokens = np.zeros((3, 7), dtype=np.int32)
    model.loss_and_gradients(tokens, tokens, Parameters(SHAPE), 1.0)
    arrays = {**layer_arrays(model.transformer), **vars(kv_caches(SHAPE)[1])}
    assert len(arrays) > 15
    assert {name: array.ctypes.data % ALIGNMENT for name, array in arrays.items()} == dict.fromkeys(arrays, 0)
