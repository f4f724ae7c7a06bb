"""Each kernel equals the float64 reference, forward and backward, at odd sizes, on 1, 2 and 3 threads.

Outputs that a kernel overwrites start as NaN, and outputs that it adds to start as random numbers. So every test also
checks that gradients of parameters accumulate and gradients of activations overwrite.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core import reference
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import adamw, attention, cross_entropy, embedding, gelu, gemm, layer_norm, linear, threads

LIMIT = 2e-6  # relative error of a float32 array against float64

pytestmark = pytest.mark.usefixtures("thread_count")


@pytest.fixture(params=[1, 2, 3], ids=lambda count: f"{count}threads")
def thread_count(request):
    before = threads.get_threads()
    threads.set_threads(request.param)
    yield request.param
    threads.set_threads(before)


@pytest.fixture
def normal():
    """Return a function: normal(3, 4) returns new float32 random numbers of that shape."""
    random = np.random.default_rng(7)
    return lambda *shape: random.normal(size=shape).astype(np.float32)


def unset(*shape):
    return np.full(shape, np.nan, dtype=np.float32)


def wide(array):
    return array.astype(np.float64)


# ---- linear


@pytest.mark.parametrize(
    ("N", "I", "O"),
    [(1, 1, 1), (1, 7, 5), (1, 64, 300), (3, 1, 9), (2, 5, 1), (17, 16, 16), (33, 17, 65), (130, 9, 31)],
)
def test_linear_equals_the_reference(normal, N, I, O):  # noqa: E741
    x, weight, bias, residual, d_y = normal(N, I), normal(I, O), normal(O), normal(N, O), normal(N, O)
    plain, added = unset(N, O), unset(N, O)
    linear.forward(plain, x, weight, bias)
    linear.forward(added, x, weight, bias, residual)
    y = reference.linear_forward(wide(x), wide(weight), wide(bias))
    assert relative_error(plain, y) < LIMIT
    assert relative_error(added, y + residual) < LIMIT

    d_x, d_weight, d_bias = unset(N, I), normal(I, O), normal(O)
    before = wide(d_weight), wide(d_bias)
    linear.backward(d_x, d_weight, d_bias, d_y, x, weight)
    expected = reference.linear_backward(wide(d_y), wide(x), wide(weight))
    assert relative_error(d_x, expected[0]) < LIMIT
    assert relative_error(d_weight, before[0] + expected[1]) < LIMIT
    assert relative_error(d_bias, before[1] + expected[2]) < LIMIT


def test_linear_output_may_be_its_residual(normal):
    x, weight, bias, y = normal(5, 3), normal(3, 9), normal(9), normal(5, 9)
    expected = reference.linear_forward(wide(x), wide(weight), wide(bias)) + y
    linear.forward(y, x, weight, bias, y)
    assert relative_error(y, expected) < LIMIT


@pytest.mark.parametrize(("M", "K", "N"), [(1, 1, 1), (1, 9, 33), (33, 9, 1), (1, 5, 1), (7, 1, 5), (47, 33, 19)])
def test_product_transposes_and_accumulates(normal, M, K, N):
    for transpose_a in (False, True):
        for transpose_b in (False, True):
            a = normal(K, M) if transpose_a else normal(M, K)
            b = normal(N, K) if transpose_b else normal(K, N)
            expected = wide(a.T if transpose_a else a) @ wide(b.T if transpose_b else b)
            c = unset(M, N)
            linear.product(c, a, b, transpose_a, transpose_b)
            assert relative_error(c, expected) < LIMIT
            linear.product(c, a, b, transpose_a, transpose_b, accumulate=True)
            assert relative_error(c, 2 * expected) < LIMIT


@pytest.mark.parametrize(("M", "K", "N"), [(113, 769, 65), (14, 1537, 1025), (225, 3, 1057), (2, 800, 31)])
def test_product_is_right_just_past_every_block_size(normal, M, K, N):
    """One more than MC and MR rows, than KC, and than NC and NR columns of `matrix_product.h`."""
    for transpose_a, transpose_b in ((False, False), (False, True), (True, False), (True, True)):
        a = normal(K, M) if transpose_a else normal(M, K)
        b = normal(N, K) if transpose_b else normal(K, N)
        c = normal(M, N)
        expected = c + wide(a.T if transpose_a else a) @ wide(b.T if transpose_b else b)
        linear.product(c, a, b, transpose_a, transpose_b, accumulate=True)
        assert relative_error(c, expected) < LIMIT


def test_library_product_equals_product_up_to_rounding(normal):
    a, b, own, library = normal(70, 33), normal(33, 50), unset(70, 50), unset(70, 50)
    linear.product(own, a, b)
    gemm.library_product(library, a, b)
    assert relative_error(own, library) < LIMIT


# ---- layer norm


@pytest.mark.parametrize(("N", "C"), [(1, 3), (7, 5), (2, 64), (5, 65), (67, 129)])
def test_layer_norm_equals_the_reference(normal, N, C):
    x, weight, bias, d_y = 3 * normal(N, C) + 1, normal(C), normal(C), normal(N, C)
    y, mean, rstd = unset(N, C), unset(N), unset(N)
    layer_norm.forward(y, mean, rstd, x, weight, bias)
    assert relative_error(y, reference.layer_norm_forward(wide(x), wide(weight), wide(bias))) < LIMIT
    assert relative_error(mean, wide(x).mean(axis=1)) < LIMIT
    assert relative_error(rstd, 1 / np.sqrt(wide(x).var(axis=1) + 1e-5)) < LIMIT

    gradients = normal(N, C), normal(C), normal(C)
    before = [wide(gradient) for gradient in gradients]
    layer_norm.backward(*gradients, d_y, x, mean, rstd, weight)
    expected = reference.layer_norm_backward(wide(d_y), wide(x), wide(weight))
    for got, start, change in zip(gradients, before, expected, strict=True):  # d_x accumulates too
        assert relative_error(got, start + change) < LIMIT


def test_layer_norm_of_a_constant_row_is_the_bias(normal):
    y, mean, rstd, bias = unset(2, 9), unset(2), unset(2), normal(9)
    layer_norm.forward(y, mean, rstd, np.full((2, 9), 3.0, np.float32), normal(9), bias)
    np.testing.assert_array_equal(y, [bias, bias])
    np.testing.assert_allclose(rstd, 1 / np.sqrt(1e-5), rtol=1e-6)


# ---- embedding


@pytest.mark.parametrize(("B", "T", "C", "V"), [(1, 1, 1, 1), (1, 4, 5, 3), (3, 7, 17, 11), (2, 65, 8, 9)])
def test_embedding_equals_the_reference(normal, B, T, C, V):
    tokens = np.random.default_rng(0).integers(0, V, (B, T), dtype=np.int32)
    wte, wpe, d_x = normal(V, C), normal(T + 2, C), normal(B * T, C)
    x = unset(B * T, C)
    embedding.forward(x, tokens.reshape(-1), wte, wpe, T)
    assert relative_error(x, reference.embedding_forward(tokens, wide(wte), wide(wpe)).reshape(-1, C)) < LIMIT

    d_wte, d_wpe = normal(V, C), normal(T + 2, C)
    before = wide(d_wte), wide(d_wpe)
    embedding.backward(d_wte, d_wpe, tokens.reshape(-1), d_x, T)
    expected = reference.embedding_backward(wide(d_x).reshape(B, T, C), tokens, wide(wte), wide(wpe))
    assert relative_error(d_wte, before[0] + expected[0]) < LIMIT
    assert relative_error(d_wpe, before[1] + expected[1]) < LIMIT


def test_embedding_may_start_at_any_position(normal):
    wte, wpe, x = normal(4, 6), normal(9, 6), unset(3, 6)
    embedding.forward(x, np.array([2, 0, 2], np.int32), wte, wpe, 3, 6)
    np.testing.assert_array_equal(x, wte[[2, 0, 2]] + wpe[6:9])


# ---- GELU


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 1), (3, 67)])
def test_gelu_equals_the_reference(normal, shape):
    x, d_y, y, d_x = 2 * normal(*shape), normal(*shape), unset(*shape), unset(*shape)
    gelu.forward(y, x)
    gelu.backward(d_x, d_y, x)
    assert relative_error(y, reference.gelu_forward(wide(x))) < LIMIT
    expected = reference.gelu_backward(wide(d_y), wide(x))
    assert relative_error(d_x, expected) < LIMIT
    gelu.backward(d_y, d_y, x)  # in place
    assert relative_error(d_y, expected) < LIMIT


def test_gelu_error_is_below_one_millionth_everywhere():
    x = np.concatenate([np.linspace(-12, 12, 4001), [1e-30, -1e-30, 0.0, 1e4, -1e4]]).astype(np.float32)[None]
    y, d_x = unset(*x.shape), unset(*x.shape)
    gelu.forward(y, x)
    gelu.backward(d_x, np.ones_like(x), x)
    assert (np.abs(y - reference.gelu_forward(wide(x))) <= 1e-6 * np.maximum(1, np.abs(x))).all()
    assert (np.abs(d_x - reference.gelu_backward(np.ones_like(wide(x)), wide(x))) <= 2e-6).all()


# ---- attention


def attend(qkv, num_heads, d_out=None, queries=None):
    """Run the kernel on views of qkv (B, T, 3C): return out, lse and, with d_out, d_qkv.

    With `queries`, only the last `queries` positions are queries.
    """
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv[..., :C], qkv[..., C : 2 * C], qkv[..., 2 * C :]
    if queries is not None:
        q = q[:, T - queries :]
    out, lse = unset(B, q.shape[1], C), unset(B, num_heads, q.shape[1])
    workspace = unset(threads.get_threads(), attention.workspace_size(T, C // num_heads))
    attention.forward(out, lse, q, k, v, workspace)
    if d_out is None:
        return out, lse
    d_qkv = unset(*qkv.shape)
    workspace.fill(np.nan)
    d_parts = d_qkv[..., :C], d_qkv[..., C : 2 * C], d_qkv[..., 2 * C :]
    attention.backward(*d_parts, d_out, out, lse, q, k, v, workspace)
    return out, lse, d_qkv


@pytest.mark.parametrize(
    ("B", "T", "H", "D"), [(1, 1, 1, 1), (2, 1, 3, 5), (2, 63, 2, 7), (1, 64, 2, 4), (1, 65, 1, 3), (3, 129, 2, 8)]
)
def test_attention_equals_the_reference(normal, B, T, H, D):
    qkv, d_out = normal(B, T, 3 * H * D), normal(B, T, H * D)
    out, lse, d_qkv = attend(qkv, H, d_out)
    assert relative_error(lse, reference.attention_tiled_forward(wide(qkv), H)[1]) < LIMIT
    assert relative_error(out, reference.attention_forward(wide(qkv), H)) < LIMIT
    assert relative_error(d_qkv, reference.attention_backward(wide(d_out), wide(qkv), H)) < LIMIT


@pytest.mark.parametrize("T", [1, 2, 65, 150])
def test_attention_of_the_last_queries_equals_the_last_rows(normal, T):
    qkv = normal(2, T, 3 * 10)
    every, _ = attend(qkv, 2)
    for queries in {1, T // 2 + 1, T}:
        assert relative_error(attend(qkv, 2, queries=queries)[0], every[:, T - queries :]) < LIMIT


def test_attention_stays_finite_at_extreme_scores(normal):
    qkv, d_out = 100 * normal(1, 70, 24), normal(1, 70, 8)  # scores of the order of 1e4
    out, _, d_qkv = attend(qkv, 2, d_out)
    assert np.isfinite(d_qkv).all()
    assert relative_error(out, reference.attention_forward(wide(qkv), 2)) < 1e-3


# ---- cross-entropy


@pytest.mark.parametrize(("N", "V"), [(1, 1), (1, 7), (5, 8), (3, 9), (20, 1003)])
def test_cross_entropy_equals_the_reference(normal, N, V):
    logits = 3 * normal(N, V)
    targets = np.random.default_rng(0).integers(0, V, N).astype(np.int32)
    targets[1::3] = -1
    counted = int((targets >= 0).sum())
    losses, predictions = unset(N), np.full(N, -7, np.int32)
    cross_entropy.forward(losses, predictions, logits, targets)
    assert losses.sum() / counted == pytest.approx(
        reference.cross_entropy_forward(wide(logits)[None], targets[None]), rel=1e-5, abs=1e-6
    )
    assert not losses[targets < 0].any()
    np.testing.assert_array_equal(predictions, logits.argmax(axis=1))

    again, d_logits = unset(N), logits.copy()
    cross_entropy.forward_backward(again, d_logits, targets, 0.5)
    np.testing.assert_allclose(again, losses, rtol=1e-5, atol=1e-6)
    expected = reference.cross_entropy_backward(wide(logits)[None], targets[None])[0] * counted * 0.5
    assert relative_error(d_logits, expected) < LIMIT
    assert not d_logits[targets < 0].any()


def test_cross_entropy_stays_finite_at_extreme_logits():
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]], np.float32)
    losses, targets = unset(3), np.array([1, 2, 0], np.int32)
    cross_entropy.forward_backward(losses, logits, targets, 1.0)
    np.testing.assert_allclose(losses, [2e4, np.log(2), np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(logits, [[1, -1, 0], [0, 0.5, -0.5], [-2 / 3, 1 / 3, 1 / 3]], atol=1e-6)


# ---- AdamW


@pytest.mark.parametrize("size", [1, 15, 16384, 16385, 40001])
def test_adamw_equals_the_reference_for_three_steps(normal, size):
    values, m, v = normal(size), np.zeros(size, np.float32), np.zeros(size, np.float32)
    expected = wide(values), wide(m), wide(v)
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1}
    for step in (1, 2, 3):
        gradients = normal(size)
        adamw.update(values, gradients, m, v, step=step, gradient_scale=0.25, **settings)
        expected = reference.adamw_step(expected[0], 0.25 * wide(gradients), *expected[1:], step=step, **settings)
    for got, target in zip((values, m, v), expected, strict=True):
        assert relative_error(got, target) < 2e-5


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 100_003])
def test_norm_is_summed_in_double_precision(normal, size):
    values = normal(size)
    assert adamw.norm(values) == pytest.approx(float(np.linalg.norm(wide(values))), rel=1e-12)
