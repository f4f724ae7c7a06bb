"""Each kernel equals the float64 reference, forward and backward, at odd sizes, on 1, 2 and 3 threads.

Outputs that a kernel overwrites start as NaN, and outputs that it adds to start as random numbers. So every test also
checks that gradients of parameters accumulate and gradients of activations overwrite.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core import reference
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import (
    adamw,
    attention,
    cross_entropy,
    embedding,
    gelu,
    gemm,
    layer_norm,
    linear,
    relu_squared,
    rms_norm,
    rope,
    shortcut,
    swiglu,
    threads,
)

LIMIT = 2e-6  # relative error of a float32 array against float64

pytestmark = pytest.mark.usefixtures("thread_count")


@pytest.fixture(params=[1, 2, 3], ids=lambda count: f"{count}threads")
def thread_count(request):
    threads.set_threads(request.param)


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


def test_layer_norm_without_a_bias_differs_by_the_bias_alone(normal):
    x, weight, d_y, rows = normal(7, 5), normal(5), normal(7, 5), (unset(7), unset(7))
    with_zeros, without = unset(7, 5), unset(7, 5)
    layer_norm.forward(with_zeros, *rows, x, weight, np.zeros(5, np.float32))
    layer_norm.forward(without, *rows, x, weight, None)
    np.testing.assert_allclose(with_zeros, without, rtol=2**-22)  # Arm's compiler fuses other pairs of the two loops
    d_weights, d_xs = [np.zeros(5, np.float32) for _ in range(2)], [np.zeros((7, 5), np.float32) for _ in range(2)]
    for d_x, d_weight, d_bias in zip(d_xs, d_weights, (normal(5), None), strict=True):
        layer_norm.backward(d_x, d_weight, d_bias, d_y, x, *rows, weight)
    np.testing.assert_array_equal(*d_weights)
    np.testing.assert_array_equal(*d_xs)


# ---- RMS norm


@pytest.mark.parametrize(("N", "C"), [(1, 3), (7, 5), (2, 64), (5, 65), (67, 129)])
def test_rms_norm_equals_the_reference(normal, N, C):
    x, weight, d_y, y, rstd = 3 * normal(N, C) + 1, normal(C), normal(N, C), unset(N, C), unset(N)
    rms_norm.forward(y, rstd, x, weight)
    assert relative_error(y, reference.rms_norm_forward(wide(x), wide(weight))) < LIMIT
    assert relative_error(rstd, 1 / np.sqrt((wide(x) ** 2).mean(axis=1) + 1e-6)) < LIMIT

    gradients = normal(N, C), normal(C)
    before = [wide(gradient) for gradient in gradients]
    rms_norm.backward(*gradients, d_y, x, rstd, weight)
    expected = reference.rms_norm_backward(wide(d_y), wide(x), wide(weight))
    for got, start, change in zip(gradients, before, expected, strict=True):  # d_x accumulates too
        assert relative_error(got, start + change) < LIMIT


@pytest.mark.parametrize(("N", "H", "D"), [(1, 1, 3), (7, 3, 5), (67, 2, 17)])
def test_rms_norm_of_heads_equals_the_reference_and_leaves_values_alone(normal, N, H, D):
    C, weights = H * D, (normal(D), normal(D))
    qkv, d_y, y, rstd = normal(N, 3 * C), normal(N, 2 * C), unset(N, 2 * C), unset(N, 2 * H)
    rms_norm.heads_forward(y, rstd, qkv, *weights)
    d_qkv, d_weights = normal(N, 3 * C), (normal(D), normal(D))
    d_values, before = d_qkv[:, 2 * C :].copy(), [wide(gradient) for gradient in d_weights]
    rms_norm.heads_backward(d_qkv, *d_weights, d_y, qkv, rstd, *weights)
    for part in range(2):  # queries and keys
        columns = slice(part * C, (part + 1) * C)
        x, d_out = (wide(array[:, columns]).reshape(N, H, D) for array in (qkv, d_y))
        expected = reference.rms_norm_forward(x, wide(weights[part])).reshape(N, C)
        d_x, d_weight = reference.rms_norm_backward(d_out, x, wide(weights[part]))
        assert relative_error(y[:, columns], expected) < LIMIT
        assert relative_error(d_qkv[:, columns], d_x.reshape(N, C)) < LIMIT
        assert relative_error(d_weights[part], before[part] + d_weight) < LIMIT
    np.testing.assert_array_equal(d_qkv[:, 2 * C :], d_values)


# ---- rotary positions and shortcut


@pytest.mark.parametrize(("B", "T", "H", "D", "first"), [(1, 1, 1, 2, 0), (2, 7, 3, 6, 0), (1, 9, 2, 34, 5)])
def test_rotary_positions_equal_the_reference_and_are_undone_by_their_inverse(normal, B, T, H, D, first):
    qkv = normal(B * T, 3 * H * D)
    angles = np.arange(first + T)[:, None] * reference.ROPE_BASE ** (-np.arange(0, D, 2) / D)
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    heads = wide(qkv[:, : 2 * H * D]).reshape(B, T, 2 * H, D).transpose(0, 2, 1, 3)
    later = np.concatenate([np.zeros((B, 2 * H, first, D)), heads], axis=2)
    expected = reference.rope_forward(later)[:, :, first:].transpose(0, 2, 1, 3).reshape(B * T, -1)
    rotated = qkv.copy()
    rope.rotate(rotated, *tables, 2 * H * D, T, first)
    assert relative_error(rotated[:, : 2 * H * D], expected) < LIMIT
    np.testing.assert_array_equal(rotated[:, 2 * H * D :], qkv[:, 2 * H * D :])
    rope.rotate(rotated, *tables, 2 * H * D, T, first, inverse=True)
    assert relative_error(rotated, qkv) < LIMIT


@pytest.mark.parametrize(("N", "C"), [(1, 1), (7, 5), (67, 129)])
def test_shortcut_adds_the_scaled_start_of_the_stream(normal, N, C):
    x, x0, scale, d_y, y = normal(N, C), normal(N, C), normal(1), normal(N, C), unset(N, C)
    shortcut.forward(y, x, x0, scale)
    assert relative_error(y, wide(x) + wide(scale) * x0) < LIMIT
    d_x0, d_scale = normal(N, C), normal(1)
    before = wide(d_x0), wide(d_scale)
    shortcut.backward(d_x0, d_scale, unset(N), d_y, x0, scale)
    assert relative_error(d_x0, before[0] + wide(scale) * d_y) < LIMIT
    products = wide(d_y) * x0
    assert abs(d_scale - before[1] - products.sum()) < LIMIT * np.abs(products).sum()


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


def test_embedding_of_tokens_alone_copies_their_rows(normal):
    tokens, wte, d_x, x, d_wte = np.array([2, 0, 2], np.int32), normal(4, 6), normal(3, 6), unset(3, 6), normal(4, 6)
    embedding.forward(x, tokens, wte, None, 3)
    np.testing.assert_array_equal(x, wte[tokens])
    expected = d_wte + np.stack([d_x[1], np.zeros(6), d_x[0] + d_x[2], np.zeros(6)])
    embedding.backward(d_wte, None, tokens, d_x, 3)
    assert relative_error(d_wte, expected) < LIMIT


# ---- activations

ACTIVATIONS = {"gelu": gelu, "relu_squared": relu_squared, "swiglu": swiglu}


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 1), (3, 67)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_the_reference(normal, name, shape):
    kernel, (forward, backward) = ACTIVATIONS[name], reference.ACTIVATIONS[name]
    N, F = shape
    inputs = 2 * F if name == "swiglu" else F
    x, d_y, y, d_x = 2 * normal(N, inputs), normal(N, F), unset(N, F), unset(N, inputs)
    kernel.forward(y, x)
    kernel.backward(d_x, d_y, x)
    assert relative_error(y, forward(wide(x))) < LIMIT
    expected = backward(wide(d_y), wide(x))
    assert relative_error(d_x, expected) < LIMIT
    if inputs == F:  # in place
        kernel.backward(d_y, d_y, x)
        assert relative_error(d_y, expected) < LIMIT


def test_swiglu_of_extreme_gates_is_the_gate_or_0(normal):
    x = np.array([[1e4, -1e4, 100.0, -100.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]], np.float32)
    y, d_x = unset(1, 5), unset(1, 10)
    swiglu.forward(y, x)
    swiglu.backward(d_x, np.ones_like(y), x)
    smallest = np.finfo(np.float32).tiny
    np.testing.assert_allclose(y, [[1e4, 0.0, 100.0, 0.0, 0.0]], atol=1e4 * smallest)
    np.testing.assert_allclose(d_x, [[1.0, 0.0, 1.0, 0.0, 0.5, 1e4, 0.0, 100.0, 0.0, 0.0]], atol=1e4 * smallest)


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


def test_attention_of_heads_as_sequences_has_the_same_bits(normal):
    B, T, H, D = 1, 70, 3, 5
    q, k, v = np.split(normal(B, T, 3 * H * D), 3, axis=-1)
    out, lse = unset(B, T, H * D), unset(B, H, T)
    workspace = unset(threads.get_threads(), attention.workspace_size(T, D))
    attention.forward(out, lse, q, k, v, workspace)
    again, lse_again = unset(B, T, H * D), unset(H, 1, T)
    by_head = [rows[0].reshape(T, H, D).transpose(1, 0, 2) for rows in (again, q, k, v)]  # views with rows apart
    attention.forward(by_head[0], lse_again, *by_head[1:], workspace)
    np.testing.assert_array_equal(again, out)
    np.testing.assert_array_equal(lse_again[:, 0], lse[0])


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
