"""Guarantees of every kernel besides its result: clear errors, NaN propagation, reproducible bits, the GIL released."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gpt_core import gradcheck
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import (
    adamw,
    attention,
    conversion,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    gemm,
    layer_norm,
    linear,
    muon,
    relu_squared,
    rms_norm,
    rope,
    shortcut,
    swiglu,
    threads,
)
from tests.core.kernel_functions import kernel_functions
from tests.core.other_levels import OTHER_LEVELS, printed_at

WITHOUT_RESULTS = {"gemm", "threads"}  # modules that other kernels use
TESTED_ELSEWHERE = {"decoding"}  # modules with such tests of their own
ADAMW = {"step": 1, "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}


def f(*shape):
    return np.zeros(shape, np.float32)


def ids(*values):
    return np.array(values, np.int32)


def workspace(keys, head_size=2):
    return f(threads.get_threads(), attention.workspace_size(keys, head_size))


INVALID_CALLS = {
    "rms_norm: weight too short": (lambda: rms_norm.forward(f(2, 4), f(2), f(2, 4), f(3)), "got 3, expected 4"),
    "rms_norm: rstd of other rows": (lambda: rms_norm.forward(f(2, 4), f(3), f(2, 4), f(4)), "got 3, expected 2"),
    "rms_norm: no rows": (lambda: rms_norm.forward(f(0, 4), f(0), f(0, 4), f(4)), "got 0, expected at least 1"),
    "rms_norm: d_weight too short": (
        lambda: rms_norm.backward(f(2, 4), f(3), f(2, 4), f(2, 4), f(2), f(4)), "got 3, expected 4"),
    "rms_norm: x without keys": (
        lambda: rms_norm.heads_forward(f(2, 8), f(2, 4), f(2, 7), f(2), f(2)), "got 7, expected at least 8"),
    "rms_norm: heads of other sizes": (
        lambda: rms_norm.heads_forward(f(2, 8), f(2, 4), f(2, 12), f(2), f(3)), "got 3, expected 2"),
    "rms_norm: d_x of other rows": (
        lambda: rms_norm.heads_backward(f(3, 12), f(2), f(2), f(2, 8), f(2, 12), f(2, 4), f(2), f(2)),
        "got 3, expected 2"),
    "rope: a position after the table": (
        lambda: rope.rotate(f(3, 4), f(2, 2), f(2, 2), 4, 3), "got 3 positions from 0 on, expected at least 1, all"),
    "rope: a position far after the table": (
        lambda: rope.rotate(f(3, 4), f(3, 2), f(3, 2), 4, 3, 2**63 - 2), "all within 3"),
    "rope: heads of other sizes": (lambda: rope.rotate(f(2, 6), f(2, 2), f(2, 2), 6, 2), "got 2, expected 0"),
    "rope: more channels than x has": (lambda: rope.rotate(f(2, 4), f(2, 2), f(2, 2), 8, 2), "got 8 channels"),
    "rope: sines of other positions": (lambda: rope.rotate(f(2, 4), f(2, 2), f(3, 2), 4, 2), "got 3, expected 2"),
    "shortcut: other rows of x0": (lambda: shortcut.forward(f(2, 4), f(2, 4), f(3, 4), f(1)), "got 3, expected 2"),
    "shortcut: two scales": (lambda: shortcut.forward(f(2, 4), f(2, 4), f(2, 4), f(2)), "got 2, expected 1"),
    "shortcut: sums of other rows": (
        lambda: shortcut.backward(f(2, 4), f(1), f(3), f(2, 4), f(2, 4), f(1)), "got 3, expected 2"),
    "relu_squared: other channels": (lambda: relu_squared.forward(f(2, 3), f(2, 4)), "got 3, expected 4"),
    "relu_squared: other rows of d_y": (
        lambda: relu_squared.backward(f(2, 4), f(3, 4), f(2, 4)), "got 3, expected 2"),
    "swiglu: no gates": (lambda: swiglu.forward(f(2, 4), f(2, 4)), "got 4, expected 8"),
    "swiglu: other rows of d_x": (lambda: swiglu.backward(f(3, 8), f(2, 4), f(2, 8)), "got 3, expected 2"),
    "embedding: no such token without positions": (
        lambda: embedding.forward(f(1, 2), ids(3), f(3, 2), None, 1), "got token 3"),
    "embedding: no tokens without positions": (
        lambda: embedding.forward(f(0, 2), ids(), f(3, 2), None, 1), "got 0, expected at least 1"),
    "embedding: no tokens per sequence": (
        lambda: embedding.forward(f(1, 2), ids(1), f(3, 2), None, 0), "got 0, expected at least 1"),
    "embedding: no tokens per sequence, backward": (
        lambda: embedding.backward(f(3, 2), None, ids(1), f(1, 2), -1), "got -1, expected at least 1"),
    "linear: weight with other inputs": (lambda: linear.forward(f(2, 5), f(2, 4), f(3, 5), f(5)), "got 3, expected 4"),
    "linear: bias too short": (lambda: linear.forward(f(2, 5), f(2, 4), f(4, 5), f(4)), "got 4, expected 5"),
    "linear: other number of rows in y": (lambda: linear.forward(f(3, 5), f(2, 4), f(4, 5), f(5)), "got 3, expected 2"),
    "linear: other number of rows in residual": (
        lambda: linear.forward(f(2, 5), f(2, 4), f(4, 5), f(5), f(3, 5)), "got 3, expected 2"),
    "linear: no rows": (lambda: linear.forward(f(0, 5), f(0, 4), f(4, 5), f(5)), "got 0, expected at least 1"),
    "linear: d_weight transposed": (
        lambda: linear.backward(f(2, 4), f(5, 4), f(5), f(2, 5), f(2, 4), f(4, 5)), "got [45], expected [45]"),
    "linear: d_bias too long": (
        lambda: linear.backward(f(2, 4), f(4, 5), f(6), f(2, 5), f(2, 4), f(4, 5)), "got 6, expected 5"),
    "linear: weight with other inputs, backward": (
        lambda: linear.backward(f(2, 4), f(4, 5), f(5), f(2, 5), f(2, 4), f(3, 5)), "got 3, expected 4"),
    "gemm: inner lengths differ": (lambda: gemm.product(f(2, 3), f(2, 4), f(5, 3)), "got 5, expected 4"),
    "product: inner lengths differ": (lambda: linear.product(f(2, 3), f(2, 4), f(5, 3)), "got 5, expected 4"),
    "product: transposed factor": (lambda: linear.product(f(2, 3), f(2, 4), f(4, 3), True), "got 4, expected 2"),
    "layer_norm: weight with other channels": (
        lambda: layer_norm.forward(f(3, 4), f(3), f(3), f(3, 4), f(5), f(4)), "got 5, expected 4"),
    "layer_norm: mean too short": (
        lambda: layer_norm.forward(f(3, 4), f(2), f(3), f(3, 4), f(4), f(4)), "got 2, expected 3"),
    "layer_norm: d_weight too short": (
        lambda: layer_norm.backward(f(3, 4), f(3), f(4), f(3, 4), f(3, 4), f(3), f(3), f(4)), "got 3, expected 4"),
    "embedding: id past the table": (
        lambda: embedding.forward(f(2, 4), ids(0, 9), f(9, 4), f(5, 4), 2), "token 9 at index 1"),
    "embedding: negative id": (
        lambda: embedding.backward(f(9, 4), f(5, 4), ids(0, -1), f(2, 4), 2), "token -1 at index 1"),
    "embedding: position past the table": (
        lambda: embedding.forward(f(2, 4), ids(0, 1), f(9, 4), f(5, 4), 2, 4), "within 5"),
    "embedding: more tokens than rows": (
        lambda: embedding.forward(f(2, 4), ids(0, 1, 2), f(9, 4), f(5, 4), 2), "got 3, expected 2"),
    "gelu: other channels": (lambda: gelu.forward(f(2, 5), f(2, 4)), "got 5, expected 4"),
    "gelu: other rows": (lambda: gelu.backward(f(2, 5), f(3, 5), f(2, 5)), "got 3, expected 2"),
    "dropout: other channels": (lambda: dropout.apply(f(2, 5), f(2, 4), 0.5, 1), "got 4, expected 5"),
    "dropout: other rows of residual": (
        lambda: dropout.apply(f(2, 5), f(2, 5), 0.5, 1, 0, f(3, 5)), "got 3, expected 2"),
    "dropout: everything": (lambda: dropout.apply(f(2, 5), f(2, 5), 1.0, 1), "got rate 1.0, expected .* less than 1"),
    "attention: everything dropped": (
        lambda: attention.forward(
            f(1, 4, 4), f(1, 2, 4), f(1, 4, 4), f(1, 4, 4), f(1, 4, 4), workspace(4), dropout=1.0),
        "got dropout 1.0, expected .* less than 1"),
    "cross_entropy: target past the vocabulary": (
        lambda: cross_entropy.forward_backward(f(2), f(2, 4), ids(0, 4), 1.0), "target 4 at index 1"),
    "cross_entropy: target under -1": (
        lambda: cross_entropy.forward(f(2), ids(0, 0), f(2, 4), ids(-2, 0)), "target -2 at index 0"),
    "cross_entropy: losses too short": (
        lambda: cross_entropy.forward_backward(f(1), f(2, 4), ids(0, 1), 1.0), "got 1, expected 2"),
    "attention: heads do not divide the channels": (
        lambda: attention.forward(f(1, 4, 4), f(1, 3, 4), f(1, 4, 4), f(1, 4, 4), f(1, 4, 4), workspace(4)),
        "got 1, expected 0"),
    "attention: fewer keys than queries": (
        lambda: attention.forward(f(1, 4, 4), f(1, 2, 4), f(1, 4, 4), f(1, 3, 4), f(1, 3, 4), workspace(4)), "3 keys"),
    "attention: workspace too small": (
        lambda: attention.forward(f(1, 4, 4), f(1, 2, 4), f(1, 4, 4), f(1, 4, 4), f(1, 4, 4), f(1, 9)), "workspace"),
    "attention: channels not contiguous": (
        lambda: attention.forward(f(1, 4, 4), f(1, 2, 4), f(1, 4, 8)[..., ::2], f(1, 4, 4), f(1, 4, 4), workspace(4)),
        "got 8, expected 4"),
    "attention: rows of out overlap": (
        lambda: attention.forward(
            np.lib.stride_tricks.as_strided(f(4), (1, 4, 4), (0, 0, 4)),
            f(1, 2, 4), f(1, 4, 4), f(1, 4, 4), f(1, 4, 4), workspace(4)),
        "rows of out"),
    "adamw: m too short": (lambda: adamw.update(f(3), f(3), f(2), f(3), **ADAMW), "got 2, expected 3"),
    "adamw: step 0": (
        lambda: adamw.update(f(3), f(3), f(3), f(3), **{**ADAMW, "step": 0}), "step 0, expected at least 1"),
    "threads: 0": (lambda: threads.set_threads(0), "got 0, expected at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID_CALLS)
def test_invalid_shapes_and_ids_raise_a_one_line_error(case):
    call, message = INVALID_CALLS[case]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert str(error.value).split(":")[0] in (case.split(":")[0], "product")


def test_other_dtypes_layouts_and_read_only_outputs_raise_an_error():
    frozen = f(2, 3)
    frozen.flags.writeable = False
    gelu.forward(f(2, 3), frozen)  # allowed as an input
    for y, x in [(f(2, 3), np.zeros((2, 3))), (f(2, 3), np.asfortranarray(f(2, 3))), (frozen, f(2, 3))]:
        with pytest.raises(ValueError, match=r"dtype|contiguous|read-only"):
            gelu.forward(y, x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_value_that_is_not_finite_reaches_the_loss_and_the_norm(bad):
    """The trainer checks only these two, so no kernel may hide the value."""
    for place in (0, 5, 16):
        logits, losses = f(2, 17), f(2)
        logits[0, place] = bad
        cross_entropy.forward_backward(losses, logits, ids(3, 3), 1.0)
        assert not np.isfinite(losses[0])
        assert np.isfinite(losses[1])
    values = f(5000)
    values[4321] = bad
    assert not np.isfinite(adamw.norm(values))


def test_nan_propagates_through_gelu_norm_and_attention_but_not_to_earlier_positions():
    x, y = np.array([[1.0, np.nan, 2.0]], np.float32), f(1, 3)
    gelu.forward(y, x)
    np.testing.assert_array_equal(np.isnan(y), [[False, True, False]])
    layer_norm.forward(y, f(1), f(1), x, f(3), f(3))
    assert np.isnan(y).all()
    qkv, out = f(1, 3, 12), f(1, 3, 4)
    qkv[0, 1, 5] = np.nan  # the second position's key, first head
    attention.forward(out, f(1, 2, 3), qkv[..., :4], qkv[..., 4:8], qkv[..., 8:], workspace(3))
    assert np.isnan(out[0, 1:, :2]).all()
    assert np.isfinite(out[0, 0]).all()
    assert np.isfinite(out[0, :, 2:]).all()


def all_results(count):
    """Return the results of every kernel but decoding on `count` threads, at sizes that no thread count divides."""
    threads.set_threads(count)
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    B, T, C, F, V, H = 3, 131, 33, 71, 517, 3
    N = B * T
    x, tokens = normal(N, C), random.integers(0, V, N, dtype=np.int32)
    made = {"wte": normal(V, C), "wpe": normal(T, C), "embedded": f(N, C), "d_wte": f(V, C), "d_wpe": f(T, C)}
    embedding.forward(made["embedded"], tokens, made["wte"], made["wpe"], T)
    embedding.backward(made["d_wte"], made["d_wpe"], tokens, x, T)
    made |= {"ln_out": f(N, C), "mean": f(N), "rstd": f(N), "d_n_x": f(N, C), "d_n_w": f(C), "d_n_b": f(C)}
    layer_norm.forward(made["ln_out"], made["mean"], made["rstd"], x, normal(C), normal(C))
    layer_norm.backward(
        made["d_n_x"], made["d_n_w"], made["d_n_b"], normal(N, C), x, made["mean"], made["rstd"], normal(C)
    )
    made |= {"linear": f(N, F), "d_l_x": f(N, C), "d_l_w": f(C, F), "d_l_b": f(F), "gelu": f(N, F), "d_g": f(N, F)}
    weight = normal(C, F)
    linear.forward(made["linear"], x, weight, normal(F))
    linear.backward(made["d_l_x"], made["d_l_w"], made["d_l_b"], normal(N, F), x, weight)
    gelu.forward(made["gelu"], made["linear"])
    gelu.backward(made["d_g"], normal(N, F), made["linear"])
    qkv, scratch = normal(B, T, 3 * C), f(count, attention.workspace_size(T, C // H))
    made |= {"attn_out": f(B, T, C), "lse": f(B, H, T), "d_qkv": f(B, T, 3 * C)}
    q, k, v = np.split(qkv, 3, axis=2)
    attention.forward(made["attn_out"], made["lse"], q, k, v, scratch)
    made |= {"dropped": f(N, C), "dropped_attn_out": f(B, T, C), "dropped_d_qkv": f(B, T, 3 * C)}
    dropout.apply(made["dropped"], x, 0.3, 7, 11, made["ln_out"])
    attention.forward(made["dropped_attn_out"], made["lse"], q, k, v, scratch, dropout=0.3, dropout_key=7)
    d_q, d_k, d_v = np.split(made["dropped_d_qkv"], 3, axis=2)
    attention.backward(
        d_q, d_k, d_v, normal(B, T, C), made["dropped_attn_out"], made["lse"], q, k, v, scratch, dropout=0.3,
        dropout_key=7,
    )  # fmt: skip
    d_q, d_k, d_v = np.split(made["d_qkv"], 3, axis=2)
    attention.backward(d_q, d_k, d_v, normal(B, T, C), made["attn_out"], made["lse"], q, k, v, scratch)
    made |= other_layers(random, N, T, H)
    made |= {"losses": f(N), "logits": normal(N, V), "values": normal(50_001), "m": f(50_001), "v": f(50_001)}
    made |= {"eval_losses": f(N), "predictions": np.zeros(N, np.int32), "average": normal(50_001)}
    cross_entropy.forward(made["eval_losses"], made["predictions"], made["logits"], tokens)
    cross_entropy.forward_backward(made["losses"], made["logits"], tokens, 0.01)
    made["norm"] = np.array([adamw.norm(made["values"])])
    adamw.update(made["values"], normal(50_001), made["m"], made["v"], **ADAMW)
    adamw.average(made["average"], made["values"], 0.9)
    made |= {"weights": normal(2 * C * F), "momentum": f(2 * C * F), "product": f(C, F)}
    matrices, scratch = np.array([[0, C, F, F], [C * F, F, C, C]]), f(count, muon.workspace_size(C, F))
    muon.update(made["weights"], normal(2 * C * F), made["momentum"], matrices, scratch, 0.1, 0.9, 0.1)
    linear.product(made["product"], x, made["gelu"], transpose_a=True)
    made |= {"bits": np.zeros((N, C), np.uint16), "values_of_bits": f(N, C), "expanded": f(C, F)}
    conversion.to_bfloat16(made["bits"], x)
    conversion.from_bfloat16(made["values_of_bits"], made["bits"])
    conversion.expand(made["expanded"], made["bits"][: 2 * 64].reshape(2, C, 64))
    return made


def other_layers(random, N, T, H):
    """Return the results of the kernels of layers other than GPT-2's, at head size 10."""

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    C, F, V, D = 10 * H, 71, 517, 10
    x, tokens = normal(N, C), random.integers(0, V, N, dtype=np.int32)
    made = {"rms_out": f(N, C), "rms_rstd": f(N), "d_rms_x": f(N, C), "d_rms_w": f(C)}
    weight, q_weight, k_weight, qkv = normal(C), normal(D), normal(D), normal(N, 3 * C)
    rms_norm.forward(made["rms_out"], made["rms_rstd"], x, weight)
    rms_norm.backward(made["d_rms_x"], made["d_rms_w"], normal(N, C), x, made["rms_rstd"], weight)
    made |= {"qk": f(N, 2 * C), "qk_rstd": f(N, 2 * H), "d_qkv_in": f(N, 3 * C), "d_w_q": f(D), "d_w_k": f(D)}
    rms_norm.heads_forward(made["qk"], made["qk_rstd"], qkv, q_weight, k_weight)
    rms_norm.heads_backward(
        made["d_qkv_in"], made["d_w_q"], made["d_w_k"], normal(N, 2 * C), qkv, made["qk_rstd"], q_weight, k_weight
    )
    rope.rotate(made["qk"], normal(T, D // 2), normal(T, D // 2), 2 * C, T)
    made |= {"short": f(N, C), "d_x0": f(N, C), "d_scale": f(1)}
    shortcut.forward(made["short"], x, normal(N, C), normal(1))
    shortcut.backward(made["d_x0"], made["d_scale"], f(N), normal(N, C), x, normal(1))
    made |= {"relu": f(N, F), "d_relu": f(N, F), "glu": f(N, F), "d_glu": f(N, 2 * F)}
    relu_squared.forward(made["relu"], hidden := normal(N, F))
    relu_squared.backward(made["d_relu"], normal(N, F), hidden)
    swiglu.forward(made["glu"], gated := normal(N, 2 * F))
    swiglu.backward(made["d_glu"], normal(N, F), gated)
    made |= {"tokens": f(N, C), "d_tokens": f(V, C), "no_bias": f(N, F), "d_nb_x": f(N, C), "d_nb_w": f(C, F)}
    table, matrix = normal(V, C), normal(C, F)
    embedding.forward(made["tokens"], tokens, table, None, T)
    embedding.backward(made["d_tokens"], None, tokens, x, T)
    linear.forward(made["no_bias"], x, matrix, None)
    linear.backward(made["d_nb_x"], made["d_nb_w"], None, normal(N, F), x, matrix)
    return made


def test_no_kernel_is_left_out_of_the_results(monkeypatch):
    kernels, called = kernel_functions(without=WITHOUT_RESULTS | TESTED_ELSEWHERE), set()

    def recorded(module, name):
        kernel = getattr(module, name)

        def call(*arguments, **options):
            called.add((module, name))
            return kernel(*arguments, **options)

        return call

    for module, name in kernels:
        monkeypatch.setattr(module, name, recorded(module, name))
    all_results(1)
    assert called == kernels


@pytest.mark.parametrize("count", [1, 2, 3])
def test_repeated_calls_with_the_same_threads_give_the_same_bits(count):
    first, second = all_results(count), all_results(count)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_number_of_threads_changes_only_rounding():
    one, two, three = all_results(1), all_results(2), all_results(3)
    for name in one:
        assert relative_error(two[name], one[name]) < 1e-5, name
        assert relative_error(three[name], one[name]) < 1e-5, name


@pytest.mark.skipif(not gemm.is_own(), reason="BLAS sums rows at an edge in another order")
@pytest.mark.parametrize("rows", [33, 97, 131])
def test_the_division_of_a_product_among_threads_changes_no_bit(rows):
    random = np.random.default_rng(0)
    x, weight, bias, residual = (
        random.normal(size=shape).astype(np.float32) for shape in ((rows, 800), (800, 77), (77,), (rows, 77))
    )
    results = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        results.append(f(rows, 77))
        linear.forward(results[-1], x, weight, bias, residual)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_the_number_of_threads_changes_no_bit_of_a_single_row():
    random = np.random.default_rng(0)
    x, weight, d_y = (random.normal(size=shape).astype(np.float32) for shape in ((1, 800), (800, 701), (1, 701)))
    results = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        y, d_x = f(1, 701), f(1, 800)
        linear.forward(y, x, weight, None)
        linear.backward(d_x, f(800, 701), None, d_y, x, weight)
        results.append(np.concatenate((y, d_x), axis=1))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_attention_uses_no_more_threads_than_its_workspace_has_rows():
    """The number of threads may have grown since the workspace was allocated."""
    random = np.random.default_rng(0)
    qkv = random.normal(size=(4, 96, 3 * 64)).astype(np.float32)
    results = []
    for count in (1, 3):
        threads.set_threads(count)
        out, lse, scratch = f(4, 96, 64), f(4, 4, 96), f(1, attention.workspace_size(96, 16))
        attention.forward(out, lse, qkv[..., :64], qkv[..., 64:128], qkv[..., 128:], scratch)
        results.append(out)
    np.testing.assert_array_equal(results[1], results[0])


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_every_instruction_set_level_equals_the_reference(level):
    script = (
        "from gpt_core import gradcheck as g\n"
        "shapes = [g.shapes_of(name)[0] for name in g.ARCHITECTURES]\n"
        "errors = [g.kernel_errors(shape, g.SMALL_BATCH, g.SMALL_TIME, 0) for shape in shapes]\n"
        "print(max(error for found in errors for error in found.values()))\n"
    )
    assert all(error < gradcheck.KERNEL_LIMIT for error in printed_at(level, script))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no thread affinity")
@pytest.mark.parametrize("threads", [1, 2])
def test_only_threads_that_openmp_starts_are_bound_to_cores(threads):
    script = f"""
import os, subprocess, sys, threading
import numpy as np
every = os.sched_getaffinity(0)
from gpt_core import kernels
from gpt_core.kernels import linear, threads
assert os.sched_getaffinity(0) == every, "the thread that loads the kernels is bound"
threads.set_threads({threads})
a = np.ones((512, 512), np.float32)
def compute(own, before=lambda: None):
    os.sched_setaffinity(0, own)
    before()
    linear.product(np.empty_like(a), a, a)
    assert os.sched_getaffinity(0) == own, "the caller of a kernel is bound"
    child = "import os; print(sorted(os.sched_getaffinity(0)))"
    printed = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(sorted(own)), f"a process that it starts may run on {{printed}}"
    affinities = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
    assert {threads} == 1 or len(every) == 1 or any(cores < every for cores in affinities), "no thread is bound"
    with threads.Bound():
        linear.product(np.empty_like(a), a, a)
        bound = os.sched_getaffinity(0)
    expected = 1 if len(own) <= {threads} else len(own)
    assert bound <= own and len(bound) == expected, f"bound to {{bound}} of {{own}} within Bound"
    assert os.sched_getaffinity(0) == own, "the caller stays bound after Bound"
def flush():
    with threads.DenormalsFlushed():
        pass
compute(every)
threading.excepthook = lambda failed: (print(failed.exc_value), os._exit(1))
for arguments in ((every,), (every, flush), ({{max(every)}},), ({{max(every)}}, flush)):
    worker = threading.Thread(target=compute, args=arguments)
    worker.start()
    worker.join()
assert kernels.available_cores() == len(every)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system does not list its threads")
def test_a_kernel_with_little_work_ends_no_threads():
    script = """
import os
import numpy as np
from gpt_core.kernels import gelu, linear, threads
threads.set_threads(4)
def threads_after(rows):
    x = np.ones((rows, 65536), np.float32)
    gelu.forward(np.empty_like(x), x)
    return set(os.listdir("/proc/self/task"))
started = threads_after(8)
assert all(threads_after(rows) == started for rows in (1, 2, 3, 8)), "threads were ended and started again"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("in_thread", [False, True])
def test_kernels_compute_in_a_forked_process(in_thread):
    script = f"""
import os, signal, threading
import numpy as np
from gpt_core.kernels import linear, threads
threads.set_threads(2)
a, c = np.ones((512, 512), np.float32), np.zeros((512, 512), np.float32)
linear.product(c, a, a)
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
signal.alarm(60)  # ends a child that waits
def compute():
    c.fill(0)
    with threads.DenormalsFlushed():
        linear.product(c, a, a)
if {in_thread}:
    worker = threading.Thread(target=compute)
    worker.start()
    worker.join()
else:
    compute()
os._exit(0 if (c == 512).all() else 1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_release_the_gil():
    threads.set_threads(1)
    ticks = 0
    for size in (1500, 3000, 6000):  # a fast processor, or a busy machine, needs a longer product
        a, c = np.ones((size, size), np.float32), f(size, size)
        worker = threading.Thread(target=linear.product, args=(c, a, a))
        ticks = 0
        worker.start()
        while worker.is_alive():
            time.sleep(0.001)
            ticks += 1
        if ticks >= 3:
            break
    assert ticks >= 3


def test_attention_rejects_rows_that_overlap_or_are_reversed() -> None:
    x = np.zeros((1, 4, 4), dtype=np.float32)
    out, lse = x.copy(), np.zeros((1, 2, 4), dtype=np.float32)
    workspace = np.zeros((threads.get_threads(), attention.workspace_size(4, 2)), dtype=np.float32)
    for rows in (np.broadcast_to(x[:, :1], (1, 4, 4)), x[:, ::-1]):
        with pytest.raises(ValueError, match="bytes between rows of k"):
            attention.forward(out, lse, x, rows, x, workspace)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize(("B", "T", "C"), [(3, 5, 1), (3, 1, 4), (1, 5, 4)])
def test_attention_ignores_the_strides_of_dimensions_of_one_element(dtype, B, T, C):
    if dtype is np.uint16 and not gemm.stores_bfloat16():
        pytest.skip("BLAS computes the products, of float32 arrays")
    random, lse = np.random.default_rng(0), f(B, 1, T)
    bits = random.normal(size=(4, B, T, C)).astype(np.float32).view(np.uint32) >> np.uint32(16)
    d_out, *qkv = bits.astype(np.uint16) if dtype is np.uint16 else (bits << np.uint32(16)).view(np.float32)

    def attend(*strides):
        """Compute attention on arrays of which dimensions of one element have multiples of these strides."""
        arrays = []
        for n in range(7):
            array = np.zeros((B, T, 2 * C), dtype)[..., :C]
            odd = [n * strides[i] if strides and array.shape[i] == 1 else array.strides[i] for i in range(3)]
            arrays.append(np.lib.stride_tricks.as_strided(array, strides=odd))
        out, q, k, v, *d_qkv = arrays
        for to, values in zip((q, k, v), qkv, strict=True):
            to[:] = values
        with_bfloat16 = dtype is np.uint16
        attention.forward(out, lse, q, k, v, workspace(T, C), with_bfloat16)
        attention.backward(*d_qkv, d_out, out.copy("C"), lse, q, k, v, workspace(T, C), with_bfloat16)
        return np.stack([out, *d_qkv])

    expected = attend()
    assert expected.any()
    for strides in ((0, 0, 96), (-64, 2, 4), (96, -64, 96)):
        np.testing.assert_array_equal(attend(*strides), expected)


def test_embedding_rejects_a_position_far_past_the_table() -> None:
    x, wte, wpe = (np.zeros((3, 2), dtype=np.float32) for _ in range(3))
    with pytest.raises(ValueError, match="within 3"):
        embedding.forward(x, np.zeros(3, dtype=np.int32), wte, wpe, 3, 2**63 - 2)


def test_a_small_weight_decay_is_not_lost_to_rounding() -> None:
    values = np.full(8, 1.0, dtype=np.float32)
    zeros = np.zeros(8, dtype=np.float32)
    for step in range(1, 1001):
        adamw.update(values, zeros, zeros.copy(), zeros.copy(), step, 1e-3, 0.9, 0.999, 1e-8, 1e-3)
    assert np.allclose(values, 1 - 1e-3, atol=2e-5)
