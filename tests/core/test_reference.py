"""The NumPy reference is right: its gradients are the slopes of its loss, and its parts do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core import gradcheck, reference
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.gradcheck import SMALL_BATCH, SMALL_SHAPE, SMALL_TIME, relative_error

ONE_BLOCK = ModelShape(d_model=3, hidden_size=1, vocab_size=5, num_heads=1, seq_len=2, layers=1)
ODD_HEADS = ModelShape(d_model=15, hidden_size=7, vocab_size=9, num_heads=5, seq_len=4, layers=1)


def slope_error(forward, backward, x, seed=1):
    """The error of `backward(d_y)` against central differences of sum(d_y * forward()) as the elements of x move."""
    d_y = np.random.default_rng(seed).normal(size=np.shape(forward()))
    slopes = gradcheck.central_differences(lambda: float((d_y * forward()).sum()), x, range(x.size))
    return relative_error(backward(d_y).reshape(-1), slopes)


@pytest.mark.parametrize(
    ("shape", "batch", "time"),
    [(SMALL_SHAPE, SMALL_BATCH, SMALL_TIME), (ONE_BLOCK, 1, 1), (ONE_BLOCK, 2, 2), (ODD_HEADS, 2, 3)],
)
def test_every_gradient_is_the_slope_of_the_loss(shape, batch, time):
    errors = gradcheck.reference_errors(shape, batch, time, seed=3)
    assert set(errors) == set(reference.parameter_shapes(shape))
    worst = max(errors, key=lambda name: errors[name][1])
    assert errors[worst][1] < gradcheck.REFERENCE_LIMIT, worst


def test_the_small_shape_is_checked_element_by_element():
    errors = gradcheck.reference_errors(ONE_BLOCK, 2, 2, seed=0)
    for name, size in reference.parameter_shapes(ONE_BLOCK).items():
        assert errors[name][0] == np.prod(size)
    assert max(np.prod(size) for size in reference.parameter_shapes(SMALL_SHAPE).values()) <= gradcheck.ELEMENTS


def test_each_operation_has_the_slopes_of_its_forward():
    random = np.random.default_rng(0)
    x, weight, bias = random.normal(size=(2, 3, 5)), random.normal(size=5), random.normal(size=5)
    matrix, row = random.normal(size=(5, 4)), random.normal(size=4)
    qkv = random.normal(size=(2, 4, 18))

    def norm():
        return reference.layer_norm_forward(x, weight, bias)

    def linear():
        return reference.linear_forward(x, matrix, row)

    errors = {
        "layer_norm x": slope_error(norm, lambda d: reference.layer_norm_backward(d, x, weight)[0], x),
        "layer_norm weight": slope_error(norm, lambda d: reference.layer_norm_backward(d, x, weight)[1], weight),
        "layer_norm bias": slope_error(norm, lambda d: reference.layer_norm_backward(d, x, weight)[2], bias),
        "linear x": slope_error(linear, lambda d: reference.linear_backward(d, x, matrix)[0], x),
        "linear weight": slope_error(linear, lambda d: reference.linear_backward(d, x, matrix)[1], matrix),
        "linear bias": slope_error(linear, lambda d: reference.linear_backward(d, x, matrix)[2], row),
        "gelu": slope_error(lambda: reference.gelu_forward(x), lambda d: reference.gelu_backward(d, x), x),
        "attention": slope_error(
            lambda: reference.attention_forward(qkv, 3), lambda d: reference.attention_backward(d, qkv, 3), qkv
        ),
    }
    assert all(error < 1e-9 for error in errors.values()), errors


def test_a_wrong_gradient_is_caught(monkeypatch):
    """The check itself can fail: leave the mean out of the norm's gradient, or the tied table's second use."""
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


def test_attention_sees_no_future():
    qkv = np.random.default_rng(0).normal(size=(1, 6, 12))
    changed = qkv.copy()
    changed[:, 4:] += 1.0
    before, after = reference.attention_forward(qkv, 2), reference.attention_forward(changed, 2)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:])


def test_the_loss_is_the_mean_over_what_has_a_target():
    logits = np.random.default_rng(0).normal(size=(2, 2, 5))
    targets = np.array([[1, -1], [-1, 4]], dtype=np.int32)
    by_hand = [-np.log(np.exp(logits[b, t]) / np.exp(logits[b, t]).sum())[v] for b, t, v in [(0, 0, 1), (1, 1, 4)]]
    assert reference.cross_entropy_forward(logits, targets) == pytest.approx(np.mean(by_hand), rel=1e-14)
    d_logits = reference.cross_entropy_backward(logits, targets)
    assert not d_logits[targets == -1].any()
    assert d_logits[0, 0, 1] < 0
    np.testing.assert_allclose(d_logits.sum(axis=-1), 0, atol=1e-15)


def test_no_targets_at_all_give_no_loss_and_no_gradient():
    parameters = gradcheck.scattered_parameters(ONE_BLOCK, 0)
    none = np.full((1, 2), -1, dtype=np.int32)
    loss, gradients = reference.loss_and_gradients(parameters, np.zeros((1, 2), np.int32), none, 1)
    assert loss == 0.0
    assert not any(gradient.any() for gradient in gradients.values())


def test_extreme_logits_stay_finite():
    logits = np.array([[[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]]])
    targets = np.array([[1, 2]], dtype=np.int32)
    assert reference.cross_entropy_forward(logits, targets) == pytest.approx((2e4 + np.log(2)) / 2)
    assert np.isfinite(reference.cross_entropy_backward(logits, targets)).all()


def test_an_untrained_model_knows_nothing():
    shape = ModelShape(d_model=24, hidden_size=48, vocab_size=101, num_heads=3, seq_len=8, layers=2)
    tokens, targets = gradcheck.random_batch(shape, 2, 8, seed=0)
    logits, _, _ = reference.model_forward(reference.initial_parameters(shape, 0), tokens, 3)
    assert reference.cross_entropy_forward(logits, targets) == pytest.approx(np.log(101), abs=0.05)


def test_initial_values_are_those_of_gpt2():
    shape = ModelShape(d_model=96, hidden_size=192, vocab_size=300, num_heads=3, seq_len=64, layers=8)
    parameters = reference.initial_parameters(shape, seed=1)
    for name, tensor in parameters.items():
        if name.endswith(".bias"):
            assert not tensor.any()
        elif tensor.ndim == 1:
            assert (tensor == 1).all()
        else:
            wanted = 0.02 / 4 if "c_proj" in name else 0.02
            assert tensor.std() == pytest.approx(wanted, rel=0.05), name


def test_the_default_shape_has_57482752_parameters():
    assert sum(np.prod(size) for size in reference.parameter_shapes(Settings().shape).values()) == 57_482_752


def test_clipping_scales_all_gradients_together_and_only_down():
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


def test_the_error_measure_is_relative_to_the_whole_tensor():
    assert relative_error([3.0, 4.0], [3.0, 4.0]) == 0.0
    assert relative_error([0.0], [0.0]) == 0.0
    assert relative_error([1e-9], [0.0]) == 1.0
    assert relative_error([3.0, 4.0], [3.0, 4.5]) == pytest.approx(0.5 / np.hypot(3.0, 4.5))
    assert not relative_error([np.nan], [1.0]) < 1e-4
