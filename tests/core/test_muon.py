"""Muon: the matrices of the blocks take orthogonalized updates, everything else those of AdamW."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core import reference
from gpt_core.bench.estimate import checkpoint_tensor_bytes, estimate_memory
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.formats.checkpoint import read_checkpoint
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import muon, threads
from gpt_core.model.parameters import Parameters, initial_parameters, parameter_table
from gpt_core.optim import create_optimizer
from gpt_core.optim.muon import Muon, column_ranges, is_hidden_matrix
from tests.core.training_samples import LATEST, finished_trainer, in_one_go, losses, tiny_settings, train, whole_state

SHAPE = ModelShape(d_model=24, hidden_size=40, vocab_size=300, num_heads=2, seq_len=16, layers=2)


def settings_of(**changes: object) -> Settings:
    shape = msgspec.structs.asdict(SHAPE)
    values = {"optimizer": "muon", "attn_lr": 0.02, "mlp_lr": 0.01, "weight_decay": 0.1, "precision": "float32"}
    return Settings(**(shape | values | changes))


def gradients_of(seed: int) -> Parameters:
    gradients = Parameters(SHAPE)
    gradients.flat[:] = np.random.default_rng(seed).normal(size=gradients.flat.size)
    return gradients


def updated(settings: Settings, steps: int = 3) -> tuple[Parameters, dict[str, Parameters]]:
    """Return weights and state after some steps on random gradients."""
    weights = initial_parameters(SHAPE, 0)
    optimizer = create_optimizer(weights, settings)
    for step in range(1, steps + 1):
        optimizer.update(gradients_of(step), step, 0.5, 0.25)
    return weights, optimizer.state


# ---- the kernel and the reference


def polynomial(step: int, x: reference.Array) -> reference.Array:
    a, b, c = reference.ORTHOGONALIZATION[step]
    return a * x + b * x**3 + c * x**5


@pytest.mark.parametrize("shape", [(6, 6), (5, 33), (16, 64)])
def test_orthogonalizing_brings_singular_values_near_one_and_keeps_singular_vectors(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    left, values, right = np.linalg.svd(reference.rescale_rows(x), full_matrices=False)
    assert values.max() < 1
    y = reference.orthogonalize(x)
    found = np.diag(left.T @ y @ right.T)
    assert relative_error(left @ np.diag(found) @ right, y) < 1e-10
    wide = values > 0.01
    assert wide.sum() > 1
    assert np.all((found[wide] > 0.7) & (found[wide] < 1.3))
    if shape[0] != shape[1]:
        np.testing.assert_array_equal(reference.orthogonalize(x.T), y.T)


def test_each_polynomial_is_the_one_nearest_to_one() -> None:
    """Of the odd polynomials of degree 5, it is the one whose largest errors alternate four times (Chebyshev)."""
    low, high = 0.01, 1.0
    for step in range(len(reference.ORTHOGONALIZATION)):
        errors = polynomial(step, np.linspace(low, 1.01 * high, 100_001)) - 1
        largest = np.abs(errors).max()
        signs = np.sign(errors[np.abs(errors) > 0.99 * largest])
        assert (np.diff(signs) != 0).sum() == 3
        low, high = 1 - largest, 1 + largest
    assert 0.7 < low < high < 1.3


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("shape", [(16, 40), (130, 130), (40, 16)])
def test_rounding_does_not_lead_out_of_the_range_of_the_polynomials(shape: tuple[int, int], bfloat16: bool) -> None:
    """Of a constant matrix all rounding errors have one sign, and the largest singular value is 1 when rescaled."""
    rows, columns = shape
    place, work = (
        np.array([[0, rows, columns, columns]], np.intp),
        np.empty((1, muon.workspace_size(*shape)), np.float32),
    )
    norms = []
    for value in np.linspace(1, 2, 23):
        values, m = np.zeros(rows * columns, np.float32), np.zeros(rows * columns, np.float32)
        gradients = np.full(rows * columns, value, np.float32)
        muon.update(values, gradients, m, place, work, 1 / (0.2 * max(shape) ** 0.5), 0.9, 0.0, 1.0, bfloat16)
        norms.append(np.linalg.norm(values.reshape(shape), 2))
    assert min(norms) > 0.7
    assert max(norms) < 1.4


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (1, 7), (7, 1), (16, 16), (13, 37), (120, 33), (33, 120), (240, 250)]
)
@pytest.mark.parametrize("gap", [0, 5])
def test_a_step_of_the_kernel_is_that_of_the_reference(rows: int, columns: int, gap: int) -> None:
    random, ld = np.random.default_rng(rows), columns + gap
    values, gradients, m = (random.normal(size=3 + rows * ld).astype(np.float32) for _ in range(3))
    before = values.copy()
    matrix = [array[3:].reshape(rows, ld)[:, :columns].astype(np.float64) for array in (values, gradients, m)]
    expected, expected_m = reference.muon_step(
        matrix[0], 0.5 * matrix[1], matrix[2], lr=0.5, beta=0.9, weight_decay=0.1
    )
    work = np.empty((threads.get_threads(), muon.workspace_size(rows, columns)), np.float32)
    place = np.array([[3, rows, columns, ld]], np.intp)
    muon.update(values, gradients, m, place, work, 0.5, 0.9, 0.1, 0.5)
    found, found_m = (array[3:].reshape(rows, ld) for array in (values, m))
    assert relative_error(found[:, :columns] - matrix[0], expected - matrix[0]) < 1e-4
    assert relative_error(found_m[:, :columns], expected_m) < 1e-6
    np.testing.assert_array_equal(found[:, columns:], before[3:].reshape(rows, ld)[:, columns:])
    np.testing.assert_array_equal(values[:3], before[:3])


@pytest.mark.parametrize("place", [(0, 3, 4, 3), (-1, 1, 1, 1), (90, 3, 4, 4), (0, 0, 4, 4)])
def test_a_matrix_outside_of_the_values_is_refused(place: tuple[int, ...]) -> None:
    values, work = np.zeros(100, np.float32), np.zeros((threads.get_threads(), 1000), np.float32)
    with pytest.raises(ValueError, match="expected one within 100 values"):
        muon.update(values, values, values.copy(), np.array([place], np.intp), work, 0.1, 0.9, 0.0)


def test_a_small_workspace_is_refused() -> None:
    values, work = np.zeros(100, np.float32), np.zeros((threads.get_threads(), 20), np.float32)
    with pytest.raises(ValueError, match="got workspace"):
        muon.update(values, values, values.copy(), np.array([[0, 4, 4, 4]], np.intp), work, 0.1, 0.9, 0.0)


# ---- the optimizer


def test_every_tensor_is_updated_as_the_reference_says() -> None:
    settings = settings_of()
    weights, _ = updated(settings, steps=1)
    start, gradients = initial_parameters(SHAPE, 0), gradients_of(1)
    for spec in parameter_table(SHAPE):
        before, gradient = start[spec.name].astype(np.float64), 0.25 * gradients[spec.name].astype(np.float64)
        expected, lr = before.copy(), 0.5 * {
            "attn": 0.02, "mlp": 0.01, "norm": settings.norm_lr, "pos": settings.pos_lr, "unembed": settings.unembed_lr
        }[spec.lr_group]  # fmt: skip
        zeros, decay = np.zeros_like(before), settings.weight_decay if spec.decay else 0.0
        if is_hidden_matrix(spec):
            for first, width in column_ranges(spec):
                part = (slice(None), slice(first, first + width))
                expected[part], _ = reference.muon_step(
                    before[part], gradient[part], zeros[part], lr=lr, beta=0.95, weight_decay=decay
                )
        else:
            expected, _, _ = reference.adamw_step(
                before, gradient, zeros, zeros, step=1, lr=lr, beta1=settings.adam_beta1, beta2=settings.adam_beta2,
                eps=settings.adam_eps, weight_decay=decay,
            )  # fmt: skip
        # the moved distance itself is rounded to the precision of the weights
        np.testing.assert_allclose(weights[spec.name], expected, rtol=2e-6, atol=2e-6, err_msg=spec.name)


def test_queries_keys_and_values_are_three_matrices() -> None:
    hidden = {spec.name: column_ranges(spec) for spec in parameter_table(SHAPE) if is_hidden_matrix(spec)}
    assert hidden["h.0.attn.c_attn.weight"] == [(0, 24), (24, 24), (48, 24)]
    assert hidden["h.1.mlp.c_fc.weight"] == [(0, 40)]
    assert len(hidden) == 4 * SHAPE.layers
    assert not any("wte" in name or "wpe" in name for name in hidden)


def test_the_number_of_threads_changes_no_bit() -> None:
    found = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        weights, state = updated(settings_of())
        found.append((weights.flat.tobytes(), *(moment.flat.tobytes() for moment in state.values())))
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_more_threads_later_get_scratch_memory() -> None:
    threads.set_threads(1)
    weights = initial_parameters(SHAPE, 0)
    optimizer = create_optimizer(weights, settings_of())
    optimizer.update(gradients_of(1), 1, 1.0, 1.0)
    threads.set_threads(3)
    optimizer.update(gradients_of(2), 2, 1.0, 1.0)
    assert np.isfinite(weights.flat).all()


def test_bfloat16_products_give_nearly_the_same_updates() -> None:
    exact, rounded = (updated(settings_of(precision=precision))[0].flat for precision in ("float32", "bfloat16"))
    start = initial_parameters(SHAPE, 0).flat
    assert 0 < relative_error(rounded - start, exact - start) < 0.03


def test_frozen_parts_keep_their_weights() -> None:
    weights, state = updated(settings_of(freeze="embedding, layers 0"))
    trained, _ = updated(settings_of())
    start = initial_parameters(SHAPE, 0)
    for spec in parameter_table(SHAPE):
        is_frozen = spec.name.startswith(("h.0.", "wte", "wpe"))
        assert np.array_equal(weights[spec.name], start[spec.name]) == is_frozen, spec.name
        if is_frozen:
            assert not any(moment[spec.name].any() for moment in state.values() if spec.name in moment.tensors)
        else:
            assert np.array_equal(weights[spec.name], trained[spec.name]), spec.name


def test_updates_have_the_size_of_adamws() -> None:
    start = initial_parameters(SHAPE, 0)
    moved = {}
    for optimizer in ("adamw", "muon"):
        weights, _ = updated(settings_of(optimizer=optimizer, weight_decay=0.0), steps=1)
        moved[optimizer] = weights["h.0.mlp.c_fc.weight"] - start["h.0.mlp.c_fc.weight"]
    rms = {name: float(np.sqrt((change.astype(np.float64) ** 2).mean())) for name, change in moved.items()}
    assert rms["adamw"] == pytest.approx(0.5 * 0.01, rel=0.01)  # in its first step AdamW moves each weight by lr
    assert 0.1 < rms["muon"] / rms["adamw"] < 0.3


# ---- runs


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, precision: str) -> None:
    changes = {"optimizer": "muon", "precision": precision}
    whole, all_losses = in_one_go(tmp_path / "whole", 12, **changes)
    _, first = in_one_go(tmp_path / "cut", 5, **changes)
    settings = tiny_settings(tmp_path / "cut", max_steps=12, **changes)
    resumed, second = finished_trainer(settings, tmp_path / "cut" / LATEST)
    assert first + second == all_losses
    assert whole_state(resumed) == whole_state(whole)
    assert tuple(read_checkpoint(tmp_path / "cut" / LATEST).optimizer_state or ()) == ("muon_m", "adam_v")


def test_the_squared_gradient_is_stored_only_of_what_adamw_updates(tmp_path: Path) -> None:
    trainer, _ = in_one_go(tmp_path / "run", 3, optimizer="muon")
    saved = read_checkpoint(tmp_path / "run" / LATEST).optimizer_state
    assert saved is not None
    others = [spec.name for spec in parameter_table(trainer.shape) if not is_hidden_matrix(spec)]
    assert list(saved["adam_v"].tensors) == list(trainer.run.optimizer.state["adam_v"].tensors) == others
    assert list(saved["muon_m"].tensors) == list(trainer.parameters.tensors)
    assert saved["adam_v"].flat.size < saved["muon_m"].flat.size


@pytest.mark.slow
def test_a_run_learns(tmp_path: Path) -> None:
    found = losses(train(tiny_settings(tmp_path, optimizer="muon", max_steps=60)))
    assert np.mean(found[-5:]) < 0.6 * np.mean(found[:5])


def test_memory_and_work_are_counted() -> None:
    plain, with_muon = settings_of(optimizer="adamw"), settings_of()
    scratch = estimate_memory(with_muon, 2).activations - estimate_memory(plain, 2).activations
    assert scratch == 2 * 4 * muon.workspace_size(24, 40)
    matrices = sum(spec.size for spec in parameter_table(SHAPE) if is_hidden_matrix(spec))
    assert estimate_memory(with_muon, 2).state == estimate_memory(plain, 2).state - 4 * matrices
    assert checkpoint_tensor_bytes(with_muon) == checkpoint_tensor_bytes(plain) - 4 * matrices
    short, hidden = 24, 40
    per_layer = 4 * 3 * 4 * short**3 + 2 * 3 * (3 * short**2 * hidden + short**3)
    others = sum(spec.size for spec in parameter_table(SHAPE) if not is_hidden_matrix(spec))
    assert Muon.update_work(SHAPE) == SHAPE.layers * per_layer + 20 * others
    assert Muon.update_work(SHAPE, "layers 0-1") == 20 * sum(
        spec.size for spec in parameter_table(SHAPE) if not spec.name.startswith("h.")
    )
