"""The NumPy reference: its gradients equal central differences, and each part does what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core import gradcheck, reference
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.gradcheck import SMALL_BATCH, SMALL_SHAPE, SMALL_TIME, relative_error

ONE_BLOCK = ModelShape(d_model=3, hidden_size=1, vocab_size=5, num_heads=1, seq_len=2, layers=1)
ODD_HEADS = ModelShape(d_model=15, hidden_size=7, vocab_size=9, num_heads=5, seq_len=4, layers=1)


def gradient_error(forward, backward, x, seed=1):
    """Return the error of `backward(d_y)` against central differences of sum(d_y * forward()) with respect to x."""
    d_y = np.random.default_rng(seed).normal(size=np.shape(forward()))
    differences = gradcheck.central_differences(lambda: float((d_y * forward()).sum()), x, range(x.size))
    return relative_error(backward(d_y).reshape(-1), differences)


@pytest.mark.parametrize(
    ("shape", "batch", "time"),
    [(SMALL_SHAPE, SMALL_BATCH, SMALL_TIME), (ONE_BLOCK, 1, 1), (ONE_BLOCK, 2, 2), (ODD_HEADS, 2, 3)],
)
def test_every_gradient_equals_central_differences_of_the_loss(shape, batch, time):
    errors = gradcheck.reference_errors(shape, batch, time, seed=3)
    assert set(errors) == set(reference.parameter_shapes(shape))
    worst = max(errors, key=lambda name: errors[name][1])
    assert errors[worst][1] < gradcheck.REFERENCE_LIMIT, worst


def test_the_small_shape_is_checked_element_by_element():
    errors = gradcheck.reference_errors(ONE_BLOCK, 2, 2, seed=0)
    for name, size in reference.parameter_shapes(ONE_BLOCK).items():
        assert errors[name][0] == np.prod(size)
    assert max(np.prod(size) for size in reference.parameter_shapes(SMALL_SHAPE).values()) <= gradcheck.ELEMENTS


def test_each_backward_equals_central_differences_of_its_forward():
    random = np.random.default_rng(0)
    x, weight, bias = random.normal(size=(2, 3, 5)), random.normal(size=5), random.normal(size=5)
    matrix, row = random.normal(size=(5, 4)), random.normal(size=4)
    qkv = random.normal(size=(2, 4, 18))

    def norm():
        return reference.layer_norm_forward(x, weight, bias)

    def linear():
        return reference.linear_forward(x, matrix, row)

    errors = {
        "layer_norm x": gradient_error(norm, lambda d: reference.layer_norm_backward(d, x, weight)[0], x),
        "layer_norm weight": gradient_error(norm, lambda d: reference.layer_norm_backward(d, x, weight)[1], weight),
        "layer_norm bias": gradient_error(norm, lambda d: reference.layer_norm_backward(d, x, weight)[2], bias),
        "linear x": gradient_error(linear, lambda d: reference.linear_backward(d, x, matrix)[0], x),
        "linear weight": gradient_error(linear, lambda d: reference.linear_backward(d, x, matrix)[1], matrix),
        "linear bias": gradient_error(linear, lambda d: reference.linear_backward(d, x, matrix)[2], row),
        "gelu": gradient_error(lambda: reference.gelu_forward(x), lambda d: reference.gelu_backward(d, x), x),
        "attention": gradient_error(
            lambda: reference.attention_forward(qkv, 3), lambda d: reference.attention_backward(d, qkv, 3), qkv
        ),
    }
    assert all(error < 1e-9 for error in errors.values()), errors


def test_the_gradient_check_detects_wrong_gradients(monkeypatch):
    """Without the mean in the norm's gradient, or without the tied table's second use, the check fails."""
    right = reference.layer_norm_backward

    def without_mean(d_y, x, weight):
        d_x, d_weight, d_bias = right(d_y, x, weight)
        rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + reference.LAYER_NORM_EPS)
        return d_x + rstd * (d_y * weight).mean(axis=-1, keepdims=True), d_weight, d_bias

    monkeypatch.setattr(reference, "layer_norm_backward", without_mean)
    errors = gradcheck.reference_errors(ONE_BLOCK, 1, 2, seed=3)
    assert errors["wpe.weight"][1] > 1e-3
    assert errors["ln_f.weight"][1] < gradcheck.REFERENCE_LIMIT
    monkeypatch.undo()
    monkeypatch.setattr(
        reference, "embedding_backward", lambda d_x, tokens, wte, wpe: (np.zeros_like(wte), np.zeros_like(wpe))
    )
    errors = gradcheck.reference_errors(ONE_BLOCK, 1, 2, seed=3)
    assert errors["wte.weight"][1] > 1e-3


@pytest.mark.parametrize(
    ("B", "T", "H", "D", "Br", "Bc"),
    [(1, 1, 1, 1, 64, 112), (2, 7, 3, 5, 2, 3), (1, 64, 2, 4, 16, 16), (3, 33, 1, 3, 8, 5), (2, 129, 2, 8, 64, 112),
     (1, 200, 1, 2, 64, 112), (2, 5, 2, 3, 1, 1), (1, 12, 1, 4, 5, 100)],
)  # fmt: skip
def test_tiled_attention_equals_attention_for_any_tile_size(B, T, H, D, Br, Bc):
    random = np.random.default_rng(T)
    qkv, d_y = random.normal(size=(B, T, 3 * H * D)), random.normal(size=(B, T, H * D))
    y, lse = reference.attention_tiled_forward(qkv, H, Br, Bc)
    assert relative_error(y, reference.attention_forward(qkv, H)) < 1e-13
    d_qkv = reference.attention_tiled_backward(d_y, qkv, y, lse, H, Br, Bc)
    assert relative_error(d_qkv, reference.attention_backward(d_y, qkv, H)) < 1e-12


def test_tiled_attention_returns_the_logarithm_of_the_sum_of_exponentials():
    qkv = np.random.default_rng(0).normal(size=(1, 9, 6))
    _, lse = reference.attention_tiled_forward(qkv, 1, Br=4, Bc=3)
    q, k, _ = np.split(qkv[0], 3, axis=1)
    scores = q @ k.T / np.sqrt(2)
    expected = [np.log(np.exp(scores[t, : t + 1]).sum()) for t in range(9)]
    np.testing.assert_allclose(lse[0, 0], expected, rtol=1e-13)


def test_tiled_attention_stays_finite_at_extreme_scores():
    qkv = 100 * np.random.default_rng(0).normal(size=(1, 20, 24))  # scores of the order of 1e4
    y, lse = reference.attention_tiled_forward(qkv, 2, Br=4, Bc=3)
    assert relative_error(y, reference.attention_forward(qkv, 2)) < 1e-13
    d_y = np.ones_like(y)
    d_qkv = reference.attention_tiled_backward(d_y, qkv, y, lse, 2, Br=4, Bc=3)
    assert relative_error(d_qkv, reference.attention_backward(d_y, qkv, 2)) < 1e-9


def test_attention_ignores_later_positions():
    qkv = np.random.default_rng(0).normal(size=(1, 6, 12))
    changed = qkv.copy()
    changed[:, 4:] += 1.0
    before, after = reference.attention_forward(qkv, 2), reference.attention_forward(changed, 2)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:])


def test_the_loss_is_the_mean_over_positions_with_a_target():
    logits = np.random.default_rng(0).normal(size=(2, 2, 5))
    targets = np.array([[1, -1], [-1, 4]], dtype=np.int32)
    expected = [-np.log(np.exp(logits[b, t]) / np.exp(logits[b, t]).sum())[v] for b, t, v in [(0, 0, 1), (1, 1, 4)]]
    assert reference.cross_entropy_forward(logits, targets) == pytest.approx(np.mean(expected), rel=1e-14)
    d_logits = reference.cross_entropy_backward(logits, targets)
    assert not d_logits[targets == -1].any()
    assert d_logits[0, 0, 1] < 0
    np.testing.assert_allclose(d_logits.sum(axis=-1), 0, atol=1e-15)


def test_a_batch_without_targets_has_loss_0_and_gradient_0():
    parameters = gradcheck.scattered_parameters(ONE_BLOCK, 0)
    none = np.full((1, 2), -1, dtype=np.int32)
    loss, gradients = reference.loss_and_gradients(parameters, np.zeros((1, 2), np.int32), none, ONE_BLOCK)
    assert loss == 0.0
    assert not any(gradient.any() for gradient in gradients.values())


def test_extreme_logits_stay_finite():
    logits = np.array([[[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]]])
    targets = np.array([[1, 2]], dtype=np.int32)
    assert reference.cross_entropy_forward(logits, targets) == pytest.approx((2e4 + np.log(2)) / 2)
    assert np.isfinite(reference.cross_entropy_backward(logits, targets)).all()


def test_the_loss_of_an_untrained_model_is_that_of_a_uniform_guess():
    shape = ModelShape(d_model=24, hidden_size=48, vocab_size=101, num_heads=3, seq_len=8, layers=2)
    tokens, targets = gradcheck.random_batch(shape, 2, 8, seed=0)
    logits, _, _ = reference.model_forward(reference.initial_parameters(shape, 0), tokens, shape)
    assert reference.cross_entropy_forward(logits, targets) == pytest.approx(np.log(101), abs=0.05)


def test_initial_values_follow_gpt2():
    shape = ModelShape(d_model=96, hidden_size=192, vocab_size=300, num_heads=3, seq_len=64, layers=8)
    parameters = reference.initial_parameters(shape, seed=1)
    for name, tensor in parameters.items():
        if name.endswith(".bias"):
            assert not tensor.any()
        elif tensor.ndim == 1:
            assert (tensor == 1).all()
        else:
            expected = 0.02 / 4 if "c_proj" in name else 0.02
            assert tensor.std() == pytest.approx(expected, rel=0.05), name


def test_the_default_shape_has_57482752_parameters():
    assert sum(np.prod(size) for size in reference.parameter_shapes(Settings().shape).values()) == 57_482_752


def test_clipping_scales_all_gradients_by_one_factor_and_never_up():
    gradients = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    clipped, norm = reference.clip_by_global_norm(gradients, 1.0)
    assert norm == pytest.approx(5.0)
    np.testing.assert_allclose(clipped["a"], [0.6, 0.0])
    np.testing.assert_allclose(clipped["b"], [[0.8]])
    for bound in (10.0, 0.0):
        untouched, _ = reference.clip_by_global_norm(gradients, bound)
        np.testing.assert_array_equal(untouched["a"], gradients["a"])


def test_decay_and_learning_rate_groups_follow_the_names():
    groups = {name: reference.lr_group(name) for name in reference.parameter_shapes(ONE_BLOCK)}
    assert groups["wte.weight"] == "unembed"
    assert groups["wpe.weight"] == "pos"
    assert groups["h.0.attn.c_proj.bias"] == "attn"
    assert groups["h.0.mlp.c_fc.weight"] == "mlp"
    assert groups["h.0.ln_2.bias"] == groups["ln_f.weight"] == "norm"
    decaying = {name for name in groups if reference.decays(name)}
    assert decaying == {"wte.weight"} | {
        f"h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_relative_error_is_relative_to_the_norm_of_the_tensor():
    assert relative_error([3.0, 4.0], [3.0, 4.0]) == 0.0
    assert relative_error([0.0], [0.0]) == 0.0
    assert relative_error([1e-9], [0.0]) == 1.0
    assert relative_error([3.0, 4.0], [3.0, 4.5]) == pytest.approx(0.5 / np.hypot(3.0, 4.5))
    assert not relative_error([np.nan], [1.0]) < 1e-4
