"""Kernels on arrays of bfloat16: what they compute from float32 arrays of the same values, rounded.

Sums may be grouped in another order, so a value close to the middle of two bfloat16 may be rounded the other way.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core import gradcheck, interpret
from gpt_core.config.settings import QWEN3, ModelShape
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import (
    attention,
    conversion,
    gelu,
    gemm,
    layer_norm,
    linear,
    relu_squared,
    rms_norm,
    rope,
    swiglu,
    threads,
)
from gpt_core.kernels.arrays import widened
from gpt_core.model.gpt import GPT
from gpt_core.model.memory import activation_bytes
from gpt_core.model.parameters import Parameters, initial_parameters
from tests.core.test_costs import allocated_bytes

STEP = 2.0**-7  # largest relative distance of two bfloat16
SIZES = [(1, 1), (3, 17), (5, 256), (2, 600)]  # rows and channels: less than a vector, one chunk, more than a chunk

needs_arrays = pytest.mark.skipif(not gemm.stores_bfloat16(), reason="BLAS computes the products, of float32 arrays")


def bits_of(values):
    """Return the bits of values rounded to bfloat16."""
    values = np.ascontiguousarray(values, np.float32)
    bits = np.empty(values.shape, np.uint16)
    conversion.to_bfloat16(bits.reshape(-1, values.shape[-1]), values.reshape(-1, values.shape[-1]))
    return bits


def unset(*shape):
    """Return a bfloat16 array of NaN."""
    return np.full(shape, 0x7FC0, np.uint16)


def assert_rounded(bits, exact):
    """Assert that bits are those of the exact values, but for a few that were rounded the other way."""
    assert bits.shape == exact.shape
    np.testing.assert_allclose(widened(bits), exact, rtol=STEP, atol=1e-30)
    assert (bits == bits_of(exact)).mean() > 0.99 or bits.size < 200


@pytest.fixture
def normal():
    random = np.random.default_rng(5)
    return lambda *shape: random.normal(size=shape).astype(np.float32)


# ---- products


@needs_arrays
@pytest.mark.parametrize(
    ("N", "I", "O"),
    [(1, 1, 1), (2, 3, 5), (17, 33, 31), (130, 97, 66), (33, 1536, 40), (300, 1535, 70), (5, 700, 1057)],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_linear_layer_gives_the_same_bits(normal, N, I, O, count):  # noqa: E741 (names of docs/kernels.md)
    threads.set_threads(count)
    x, weight, bias, d_y = bits_of(normal(N, I)), normal(I, O), normal(O), bits_of(normal(N, O))
    y, y_bits = np.full((N, O), np.nan, np.float32), unset(N, O)
    linear.forward(y, widened(x), weight, bias, bfloat16=True)
    from_bits = np.full_like(y, np.nan)
    linear.forward(from_bits, x, weight, bias, bfloat16=True)
    np.testing.assert_array_equal(from_bits, y)
    linear.forward(y_bits, x, weight, bias, bfloat16=True)
    np.testing.assert_array_equal(y_bits, bits_of(y))

    def backward(d_x, d_y, x):
        gradients = np.ones_like(weight), np.ones_like(bias)
        linear.backward(d_x, *gradients, d_y, x, weight, bfloat16=True)
        return gradients

    d_x, d_x_bits = np.full((N, I), np.nan, np.float32), unset(N, I)
    expected = backward(d_x, widened(d_y), widened(x))
    for found, wanted in zip(backward(d_x_bits if O <= 1536 else d_x, d_y, x), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(d_x_bits, bits_of(d_x))


@needs_arrays
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_product_gives_the_same_bits(normal, transpose_a, transpose_b):
    for M, K, N in ((1, 9, 33), (47, 33, 19), (113, 1537, 65), (225, 2, 1057)):
        a, b = (
            bits_of(normal(K, M) if transpose_a else normal(M, K)),
            bits_of(normal(N, K) if transpose_b else normal(K, N)),
        )
        results = []
        for operands in ((widened(a), widened(b)), (a, b), (a, widened(b)), (widened(a), b)):
            results.append(np.ones((M, N), np.float32))
            linear.product(results[-1], *operands, transpose_a, transpose_b, accumulate=True, bfloat16=True)
        for found in results[1:]:
            np.testing.assert_array_equal(found, results[0])


def test_bfloat16_arrays_that_a_product_cannot_use_are_refused(normal):
    x, weight, y = normal(3, 4), normal(4, 5), np.empty((3, 5), np.float32)
    with pytest.raises(ValueError, match="expected float32 for a product in float32"):
        linear.forward(y, bits_of(x), weight, None)
    with pytest.raises(ValueError, match="expected float32"):
        linear.forward(bits_of(y), x, weight, None)
    with pytest.raises(ValueError, match="expected float32"):
        linear.forward(bits_of(y), x, weight, None, normal(3, 5), bfloat16=True)
    deep = normal(3, 1537)
    with pytest.raises(ValueError, match="over 1537 values"):
        linear.forward(bits_of(y), deep, normal(1537, 5), None, bfloat16=True)
    assert not gemm.stores_bfloat16(1537)


# ---- elementwise kernels


@pytest.mark.parametrize(("N", "F"), SIZES)
@pytest.mark.parametrize("kernel", [gelu, relu_squared, swiglu], ids=["gelu", "relu_squared", "swiglu"])
def test_activations_are_rounded(normal, kernel, N, F):
    wide = 2 * F if kernel is swiglu else F
    x, d_y = bits_of(normal(N, wide)), bits_of(normal(N, F))
    y, d_x = np.empty((N, F), np.float32), np.empty((N, wide), np.float32)
    kernel.forward(y, widened(x))
    kernel.backward(d_x, widened(d_y), widened(x))
    y_bits, d_x_bits = unset(N, F), unset(N, wide)
    kernel.forward(y_bits, x)
    assert_rounded(y_bits, y)
    kernel.backward(d_x_bits, d_y, x)
    assert_rounded(d_x_bits, d_x)
    if kernel is not swiglu:
        kernel.backward(d_y, d_y, x)
        np.testing.assert_array_equal(d_y, d_x_bits)


@pytest.mark.parametrize(("N", "C"), SIZES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_normalized_rows_are_rounded(normal, N, C, has_bias):
    x, weight, bias = normal(N, C), normal(C), normal(C) if has_bias else None
    y, y_bits = np.empty((N, C), np.float32), unset(N, C)
    statistics = np.empty((4, N), np.float32)
    layer_norm.forward(y, statistics[0], statistics[1], x, weight, bias)
    layer_norm.forward(y_bits, statistics[2], statistics[3], x, weight, bias)
    assert_rounded(y_bits, y)
    np.testing.assert_allclose(statistics[2:], statistics[:2], rtol=1e-5)
    rms_norm.forward(y, statistics[0], x, weight)
    rms_norm.forward(y_bits, statistics[1], x, weight)
    assert_rounded(y_bits, y)


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (3, 16), (2, 34), (1, 600)])
def test_normalized_and_rotated_heads_are_rounded(normal, heads, size):
    N, C = 7, heads * size
    x, d_y, q_weight, k_weight = bits_of(normal(N, 3 * C)), bits_of(normal(N, 2 * C)), normal(size), normal(size)
    y, y_bits = np.empty((N, 2 * C), np.float32), unset(N, 2 * C)
    rstd, rstd_of_bits = np.empty((2, N, 2 * heads), np.float32)
    rms_norm.heads_forward(y, rstd, widened(x), q_weight, k_weight)
    rms_norm.heads_forward(y_bits, rstd_of_bits, x, q_weight, k_weight)
    assert_rounded(y_bits, y)
    np.testing.assert_allclose(rstd_of_bits, rstd, rtol=1e-5)
    d_x, d_x_bits = np.zeros((N, 3 * C), np.float32), bits_of(np.zeros((N, 3 * C)))
    gradients, gradients_of_bits = np.zeros((2, 2, size), np.float32)
    rms_norm.heads_backward(d_x, *gradients, widened(d_y), widened(x), rstd, q_weight, k_weight)
    rms_norm.heads_backward(d_x_bits, *gradients_of_bits, d_y, x, rstd, q_weight, k_weight)
    assert relative_error(widened(d_x_bits), d_x) < STEP
    assert relative_error(gradients_of_bits, gradients) < 1e-5
    angles = normal(N, size // 2)
    for inverse in (False, True):
        rotated = widened(y_bits)
        rope.rotate(rotated, np.cos(angles), np.sin(angles), 2 * C, N, inverse=inverse)
        rope.rotate(y_bits, np.cos(angles), np.sin(angles), 2 * C, N, inverse=inverse)
        assert relative_error(widened(y_bits), rotated) < STEP


# ---- attention


@needs_arrays
@pytest.mark.parametrize(
    ("B", "T", "H", "D"), [(1, 1, 1, 1), (2, 5, 2, 3), (1, 64, 2, 16), (2, 65, 3, 15), (1, 300, 2, 9), (1, 200, 1, 300)]
)
@pytest.mark.parametrize("dropout", [0, 0.3])
def test_results_of_attention_are_rounded_once(normal, B, T, H, D, dropout):
    C = H * D
    qkv, d_out = bits_of(normal(B, T, 3 * C)), bits_of(normal(B, T, C))
    workspace = np.full((threads.get_threads(), attention.workspace_size(T, D)), np.nan, np.float32)

    def attend(qkv, d_out, out):
        q, k, v = qkv[..., :C], qkv[..., C : 2 * C], qkv[..., 2 * C :]
        lse, d_qkv = np.full((B, H, T), np.nan, np.float32), np.zeros_like(qkv)
        attention.forward(out, lse, q, k, v, workspace, True, dropout, 99)
        rounded_out = out if out.dtype == np.uint16 else widened(bits_of(out))
        attention.backward(
            d_qkv[..., :C], d_qkv[..., C : 2 * C], d_qkv[..., 2 * C :], d_out, rounded_out, lse, q, k, v, workspace,
            True, dropout, 99,
        )  # fmt: skip
        return out, d_qkv, lse

    out, d_qkv, lse = attend(widened(qkv), widened(d_out), np.empty((B, T, C), np.float32))
    out_bits, d_qkv_bits, lse_of_bits = attend(qkv, d_out, unset(B, T, C))
    np.testing.assert_array_equal(lse_of_bits, lse)
    np.testing.assert_array_equal(out_bits, bits_of(out))
    assert relative_error(widened(d_qkv_bits), d_qkv) < STEP / 2


def test_bfloat16_arrays_for_products_in_float32_are_refused(normal):
    qkv, workspace = bits_of(normal(1, 4, 6)), np.zeros((1, attention.workspace_size(4, 2)), np.float32)
    with pytest.raises(ValueError, match="expected float32 for products in float32"):
        attention.forward(
            unset(1, 4, 2), np.empty((1, 1, 4), np.float32), qkv[..., :2], qkv[..., 2:4], qkv[..., 4:], workspace
        )


# ---- the model

LAYERS = [{}, {"mlp": "relu_squared", "bias": False}, QWEN3]
SHAPE = ModelShape(d_model=64, hidden_size=112, vocab_size=60, num_heads=4, seq_len=32, layers=3)


def shape_with(changes, **sizes):
    """Return SHAPE with other layers and sizes."""
    fields = {name: getattr(SHAPE, name) for name in SHAPE.__struct_fields__}
    return ModelShape(**(fields | {name: value for name, value in changes.items() if name in fields} | sizes))


def step(shape, products):
    """Return the model, the sum of losses and the gradients of one batch."""
    tokens = np.random.default_rng(0).integers(shape.vocab_size, size=(2, 9), dtype=np.int32)
    model, gradients = GPT(initial_parameters(shape, 0), products), Parameters(shape)
    loss, _ = model.loss_and_gradients(tokens, np.roll(tokens, -1, axis=1), gradients, 1 / tokens.size)
    return model, loss, gradients


@pytest.mark.parametrize("layers", LAYERS, ids=["gpt2", "relu_squared", "qwen3"])
def test_a_bfloat16_model_allocates_fewer_bytes_as_estimated(layers):
    shape = shape_with(layers)
    sizes = {}
    for products in ("float32", "bfloat16"):
        model, _, _ = step(shape, products)
        sizes[products] = activation_bytes(shape, 2, 9, threads.get_threads(), products)
        allocated = allocated_bytes(model.transformer) - allocated_bytes(model.parameters.tensors["wte.weight"])
        assert allocated == sizes[products]
    if gemm.stores_bfloat16():
        assert sizes["bfloat16"] < sizes["float32"]
        assert model.transformer.blocks[0].mlp.hidden.dtype == np.uint16


@needs_arrays
def test_a_model_too_wide_for_one_block_along_k_keeps_float32_arrays():
    shape = shape_with({}, d_model=1540, hidden_size=8, layers=1, vocab_size=16)
    model, loss, _ = step(shape, "bfloat16")
    assert model.transformer.blocks[0].mlp.hidden.dtype == np.float32
    assert model.transformer.ln_f.ln_out.dtype == np.uint16
    assert loss == pytest.approx(step(shape, "float32")[1], rel=1e-2)


@pytest.mark.parametrize("layers", LAYERS, ids=["gpt2", "relu_squared", "qwen3"])
def test_what_a_bfloat16_model_computes_can_be_looked_at(layers):
    """All activations that `inspect` reads are float32, close to those of a float32 model."""
    shape = shape_with(layers)
    parameters = gradcheck.as_parameters(shape, gradcheck.scattered_parameters(shape, 0))
    tokens = np.random.default_rng(0).integers(shape.vocab_size, size=(2, 9), dtype=np.int32)
    exact, found = (interpret.trace(GPT(parameters, products), tokens) for products in ("float32", "bfloat16"))
    assert exact.keys() == found.keys()
    for name, values in exact.items():
        assert found[name].dtype == np.float32
        assert relative_error(found[name], values) < 0.05, name
    for measure in (interpret.dead_units, lambda model, ids: interpret.mean_outputs(model, ids).hidden):
        a, b = (measure(GPT(parameters, products), tokens) for products in ("float32", "bfloat16"))
        np.testing.assert_allclose(b, a, atol=0.05)
