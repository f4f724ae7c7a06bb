"""Products in bfloat16: exact up to float32 sums of rounded operands, and good enough to train.

The unit roundoff of bfloat16 is 2^-9: a value has 8 significant bits, and is rounded to the nearest, ties to even.
"""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest

from gpt_core import gradcheck, reference
from gpt_core.bench.step_timing import measure_step_time
from gpt_core.config.presets import preset
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import attention, gemm, linear, threads
from gpt_core.kernels._runtime.cpu import supported_levels
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters
from gpt_core.training import precision
from gpt_core.training.events import EvalCompleted, RunStarted
from tests.core.other_levels import printed_at
from tests.core.training_samples import losses, of_kind, open_run, tiny_settings, train, whole_state

ROUNDOFF = 2.0**-9
FLOAT32_SUM = 2e-6  # relative error of a sum in float32
VECTOR_LEVELS = [level for level in supported_levels() if level not in ("baseline", "x86_64_v4_amx")]

needs_own_product = pytest.mark.skipif(not gemm.is_own(), reason="BLAS computes the products, in its own order")


def rounded(values):
    """Return float32 values rounded to bfloat16, as float64."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)


@pytest.fixture
def normal():
    random = np.random.default_rng(7)
    return lambda *shape: random.normal(size=shape).astype(np.float32)


# ---- products


@pytest.mark.parametrize(
    ("M", "K", "N"),
    [(1, 1, 1), (1, 9, 33), (33, 9, 1), (7, 1, 5), (47, 33, 19), (113, 1537, 65), (14, 3075, 40), (225, 2, 1057)],
)
def test_a_product_is_that_of_the_rounded_operands(normal, M, K, N):
    """Odd sizes, and one more than every block size: MR and MC rows, KC slots of two, NR and NC columns."""
    for transpose_a, transpose_b in ((False, False), (False, True), (True, False), (True, True)):
        a = normal(K, M) if transpose_a else normal(M, K)
        b = normal(N, K) if transpose_b else normal(K, N)
        c = normal(M, N)
        expected = c + (rounded(a).T if transpose_a else rounded(a)) @ (rounded(b).T if transpose_b else rounded(b))
        linear.product(c, a, b, transpose_a, transpose_b, accumulate=True, bfloat16=True)
        assert relative_error(c, expected) < FLOAT32_SUM


def test_a_linear_layer_rounds_operands_and_nothing_else(normal):
    x, weight, bias, residual, d_y = normal(37, 50), normal(50, 41), normal(41), normal(37, 41), normal(37, 41)
    y = np.full_like(residual, np.nan)
    linear.forward(y, x, weight, bias, residual, bfloat16=True)
    assert relative_error(y, rounded(x) @ rounded(weight) + bias + residual) < FLOAT32_SUM
    d_x, d_weight, d_bias = np.full_like(x, np.nan), np.zeros_like(weight), np.zeros_like(bias)
    linear.backward(d_x, d_weight, d_bias, d_y, x, weight, bfloat16=True)
    expected = reference.linear_backward(rounded(d_y), rounded(x), rounded(weight))
    assert relative_error(d_x, expected[0]) < FLOAT32_SUM
    assert relative_error(d_weight, expected[1]) < FLOAT32_SUM
    assert relative_error(d_bias, d_y.astype(np.float64).sum(axis=0)) < FLOAT32_SUM


def test_operands_are_rounded_to_nearest_with_ties_to_even():
    below, tie_to_lower, tie_to_upper, above = (1 + steps * 2.0**-8 for steps in (0.9, 1, 3, 1.1))
    a = np.array([[below], [tie_to_lower], [tie_to_upper], [above], [-tie_to_upper]], np.float32)
    c = np.empty((5, 1), np.float32)
    linear.product(c, a, np.ones((1, 1), np.float32), bfloat16=True)
    step = 2.0**-7
    np.testing.assert_array_equal(c[:, 0], np.array([1, 1, 1 + 2 * step, 1 + step, -1 - 2 * step], np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_reach_the_result(value, normal):
    a, b, c = normal(3, 40), normal(40, 5), np.zeros((3, 5), np.float32)
    a[1, 17] = value
    linear.product(c, a, b, bfloat16=True)
    assert np.isfinite(c[[0, 2]]).all()
    assert not np.isfinite(c[1]).any()


def test_a_nan_with_every_bit_set_stays_nan():
    a = np.array([0xFFFFFFFF], np.uint32).view(np.float32).reshape(1, 1)
    c = np.zeros((1, 1), np.float32)
    linear.product(c, a, np.ones((1, 1), np.float32), bfloat16=True)
    assert np.isnan(c).all()


@needs_own_product
@pytest.mark.parametrize("outputs", [77, 160, 184])
@pytest.mark.parametrize("inputs", [800, 1701])
@pytest.mark.parametrize(("with_bias", "with_residual"), [(False, False), (True, False), (False, True), (True, True)])
def test_bits_do_not_depend_on_the_number_of_threads(normal, inputs, outputs, with_bias, with_residual):
    """With more outputs than rows, the threads divide the columns. The products of one row underflow to -0."""
    x, weight, bias, residual = normal(150, inputs), normal(inputs, outputs), normal(outputs), normal(150, outputs)
    x[7], weight[:, -30:], residual[7] = -1e-30, 1e-30, -0.0
    results = []
    for count in (1, 2, 3, 4):
        threads.set_threads(count)
        y = np.full((150, outputs), np.nan, np.float32)
        linear.forward(y, x, weight, bias if with_bias else None, residual if with_residual else None, bfloat16=True)
        results.append(y.tobytes())
    assert results == results[:1] * 4


SUM_OF_BITS = """
import numpy as np
from gpt_core.kernels import linear
random = np.random.default_rng(3)
total = 0
for m, k, n in ((1, 7, 5), (33, 801, 40), (47, 1540, 33), (64, 3100, 96)):
    a, b = (random.normal(size=size).astype(np.float32) for size in ((m, k), (k, n)))
    c = np.empty((m, n), np.float32)
    linear.product(c, a, b, bfloat16=True)
    total += int(c.view(np.uint32).sum(dtype=np.uint64))
print(total)
"""


@needs_own_product
@pytest.mark.parametrize("level", VECTOR_LEVELS[:-1])
def test_a_bfloat16_product_has_the_same_bits_at_every_instruction_set_level_with_vectors(level):
    """Tiles sum 16 pairs at a time, so their bits differ."""
    assert printed_at(level, SUM_OF_BITS) == printed_at(VECTOR_LEVELS[-1], SUM_OF_BITS)


# ---- attention


@pytest.mark.parametrize(
    ("B", "Tq", "Tk", "H", "D"),
    [
        (1, 1, 1, 1, 1), (2, 5, 5, 2, 3), (1, 64, 64, 2, 16), (2, 65, 65, 3, 15), (1, 300, 300, 2, 9),
        (1, 30, 90, 2, 8), (1, 200, 200, 1, 64), (1, 200, 264, 1, 33),
    ],
)  # fmt: skip
def test_attention_has_the_error_of_rounded_operands(normal, B, Tq, Tk, H, D):
    """q, k, v, P, d_out and d_S are rounded; the errors of their products add up to a few times the unit roundoff."""
    C = H * D
    qkv, d_out = normal(B, Tk, 3 * C), normal(B, Tq, C)
    q, k, v = qkv[:, Tk - Tq :, :C], qkv[..., C : 2 * C], qkv[..., 2 * C :]
    workspace = np.full((threads.get_threads(), attention.workspace_size(Tk, D)), np.nan, np.float32)
    out, lse = np.full((B, Tq, C), np.nan, np.float32), np.full((B, H, Tq), np.nan, np.float32)
    attention.forward(out, lse, q, k, v, workspace, bfloat16=True)
    exact = reference.attention_forward(qkv.astype(np.float64), H)[:, Tk - Tq :]
    assert relative_error(out, exact) < 4 * ROUNDOFF
    if Tq == Tk:
        d_qkv = np.full_like(qkv, np.nan)
        attention.backward(
            d_qkv[..., :C], d_qkv[..., C : 2 * C], d_qkv[..., 2 * C :], d_out, out, lse, q, k, v, workspace,
            bfloat16=True,
        )  # fmt: skip
        expected = reference.attention_backward(d_out.astype(np.float64), qkv.astype(np.float64), H)
        assert relative_error(d_qkv, expected) < 6 * ROUNDOFF


def test_attention_after_an_odd_number_of_keys_is_computed_in_float32(normal):
    """A slot holds two keys, so the keys of a tile must begin at an even one."""
    q, k, v = normal(1, 4, 6), normal(1, 9, 6), normal(1, 9, 6)
    workspace = np.zeros((threads.get_threads(), attention.workspace_size(9, 3)), np.float32)
    results = []
    for bfloat16 in (False, True):
        results.append(np.full((1, 4, 6), np.nan, np.float32))
        attention.forward(results[-1], np.zeros((1, 2, 4), np.float32), q, k, v, workspace, bfloat16=bfloat16)
    np.testing.assert_array_equal(*results)


# ---- the model


@pytest.mark.parametrize(
    ("shape", "batch", "time"),
    [
        (gradcheck.SMALL_SHAPE, gradcheck.SMALL_BATCH, gradcheck.SMALL_TIME),
        pytest.param(
            gradcheck.LARGE_SHAPE, gradcheck.LARGE_BATCH, gradcheck.LARGE_TIME, marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
def test_every_gradient_points_in_the_direction_of_the_reference(shape, batch, time):
    parameters = gradcheck.scattered_parameters(shape, 0)
    tokens, targets = gradcheck.random_batch(shape, batch, time, 0)
    _, expected = reference.loss_and_gradients(parameters, tokens, targets, shape)
    got = Parameters(shape)
    model = GPT(gradcheck.as_parameters(shape, parameters), "bfloat16")
    model.loss_and_gradients(tokens, targets, got, 1.0 / int((targets != reference.NO_TARGET).sum()))
    for name, gradient in expected.items():
        a, b = got[name].astype(np.float64).ravel(), gradient.ravel()
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        assert cosine > 1 - 1e-3, f"{name}: cosine {cosine}"
        assert 0.95 < np.linalg.norm(a) / np.linalg.norm(b) < 1.05, name


# ---- a run


@pytest.mark.slow
def test_a_bfloat16_run_learns_as_the_float32_run_does(tmp_path):
    found = {}
    for products in ("float32", "bfloat16"):
        settings = tiny_settings(tmp_path, precision=products, max_steps=60, models_dir=str(tmp_path / products))
        found[products] = of_kind(train(settings), EvalCompleted)[-1].bits_per_byte
    assert found["float32"] < 3
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.03)
    assert found["bfloat16"] != found["float32"]


def test_a_resumed_bfloat16_run_equals_the_uninterrupted_one(tmp_path):
    settings = tiny_settings(tmp_path, precision="bfloat16", max_steps=12)
    whole = open_run(settings)
    expected = list(whole.events())
    parted = msgspec.structs.replace(settings, models_dir=str(tmp_path / "parted"), max_steps=7)
    first = train(parted)
    resumed = open_run(
        msgspec.structs.replace(parted, max_steps=12), resume=tmp_path / "parted" / "ckpt_latest.safetensors"
    )
    assert losses(first) + losses(list(resumed.events())) == losses(expected)
    assert whole_state(resumed) == whole_state(whole)


def test_auto_takes_the_faster_format_and_saves_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gemm, "has_native_bfloat16", lambda: True)
    for speedup, products in ((1.05, "float32"), (1.6, "bfloat16")):
        monkeypatch.setattr(precision, "measure_speedup", lambda settings, speedup=speedup: speedup)
        settings = tiny_settings(
            tmp_path, precision="auto", d_model=64, max_steps=1, models_dir=str(tmp_path / products)
        )
        trainer = open_run(settings)
        started = next(event for event in trainer.events() if isinstance(event, RunStarted))
        assert (started.precision, trainer.settings.precision) == (products, products)
        assert f"{speedup:.1f} times as fast" in started.precision_reason
    monkeypatch.setattr(precision, "measure_speedup", lambda settings: pytest.fail("a resumed run does not measure"))
    resumed = open_run(trainer.settings, resume=tmp_path / "bfloat16" / "ckpt_latest.safetensors")
    assert resumed.settings.precision == "bfloat16"
    resumed.run.store.close()


def test_auto_is_float32_without_the_instructions_and_for_few_channels(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "measure_speedup", lambda settings: pytest.fail("nothing is to be measured"))
    monkeypatch.setattr(gemm, "has_native_bfloat16", lambda: False)
    choice = precision.choose_precision(tiny_settings(tmp_path, precision="auto", d_model=64))
    assert choice == ("float32", "this processor has no bfloat16 instructions")
    monkeypatch.setattr(gemm, "has_native_bfloat16", lambda: True)
    choice = precision.choose_precision(tiny_settings(tmp_path, precision="auto", d_model=62))
    assert choice == ("float32", "bfloat16 is not faster with fewer than 64 channels")


@pytest.mark.skipif(not gemm.has_native_bfloat16(), reason="this processor has no bfloat16 instructions")
@pytest.mark.parametrize("name", ["nano", "micro", "mini"])
def test_bfloat16_products_of_every_preset_are_measured(name):
    """A ratio, not a bound on it: speed is a matter of benchmarks."""
    assert 0.1 < precision.measure_speedup(preset(name)) < 100


@pytest.mark.parametrize(
    "measure",
    [precision.measure_speedup, lambda settings: measure_step_time(settings, stopped=lambda: True)],
    ids=["of the precision", "of a step"],
)
def test_a_measurement_waits_for_another_one(tmp_path, measure):
    """Concurrent measurements slow each other down: bfloat16 was once "39.9 times as fast", and once slower."""
    thread = threading.Thread(target=measure, args=(tiny_settings(tmp_path),))
    with precision.MEASUREMENT_LOCK:
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()


def test_emulated_products_are_a_warning_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gemm, "has_native_bfloat16", lambda: False)
    events = train(tiny_settings(tmp_path, precision="bfloat16", max_steps=1))
    (started,) = of_kind(events, RunStarted)
    assert any("has no bfloat16 instructions" in warning for warning in started.warnings)
    assert started.precision == "bfloat16"
