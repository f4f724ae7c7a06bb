"""Dropout: masks are a function of seed, step, sequence, place and element, and act in training passes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt_core import gradcheck, reference
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import ModelShape
from gpt_core.errors import ConfigError
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.gradcheck import KERNEL_LIMIT, relative_error
from gpt_core.kernels import attention, dropout, threads
from gpt_core.model.gpt import GPT
from gpt_core.model.layers.dropout import Dropout, dropout_of
from gpt_core.model.memory import activation_bytes
from gpt_core.model.parameters import Parameters
from tests.core.other_levels import OTHER_LEVELS, printed_at
from tests.core.test_costs import allocated_bytes
from tests.core.training_samples import LATEST, finished_trainer, in_one_go, losses, tiny_settings, train, whole_state

SHAPE = ModelShape(d_model=24, hidden_size=40, vocab_size=67, num_heads=3, seq_len=80, layers=2)
BATCH, TIME = 4, 75  # longer than a tile of attention
KEYS = (0, 1, 0xFEDC_BA98_7654_3210, (1 << 64) - 1)


def factors(key: int, first_row: int, rows: int, columns: int, rate: float) -> np.ndarray:
    """Return the factors that the kernel multiplies by."""
    ones = np.ones((rows, columns), np.float32)
    dropout.apply(ones, ones, rate, key, first_row)
    return ones


def model(products: str = "float32") -> GPT:
    weights = gradcheck.scattered_parameters(SHAPE, 0)
    return GPT(gradcheck.as_parameters(SHAPE, weights), products)  # type: ignore[arg-type]


def gradients_of(gpt: GPT, drop: Dropout | None, first: int = 0, count: int = BATCH) -> tuple[float, np.ndarray]:
    """Return loss and gradients of `count` of the sequences of one batch."""
    tokens, targets = gradcheck.random_batch(SHAPE, BATCH, TIME, 0)
    part, gradients = slice(first, first + count), Parameters(SHAPE)
    drop = drop and drop._replace(first_sequence=first)
    loss, _ = gpt.loss_and_gradients(tokens[part], targets[part], gradients, 0.01, drop)
    return loss, gradients.flat


# ---- masks


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("rate", "first_row"), [(0.1, 0), (0.5, 1 << 40), (0.999, 3), (1e-9, 0), (0.0, 0)])
def test_the_factors_of_the_kernel_are_those_of_the_reference(key: int, rate: float, first_row: int) -> None:
    expected = reference.dropout_factors(key, first_row, 5, 77, rate)
    np.testing.assert_array_equal(factors(key, first_row, 5, 77, rate), expected.astype(np.float32))


def test_keys_are_those_of_the_reference() -> None:
    for seed, step, place in [(0, 1, 0), ((1 << 63) - 1, 1 << 50, 3072), (5, 7, 2)]:
        assert Dropout(0.1, seed, step, 0, 1).key(place) == reference.dropout_key(seed, step, place)


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_masks_are_the_same_at_every_instruction_set_level(level: str) -> None:
    script = (
        "import numpy as np; from gpt_core.kernels import dropout; x = np.ones((9, 100), np.float32)\n"
        "dropout.apply(x, x, 0.3, 77); print(int((x != 0).ravel() @ np.arange(x.size)))"
    )
    dropped = factors(77, 0, 9, 100, 0.3) != 0
    assert printed_at(level, script) == [int(dropped.ravel() @ np.arange(dropped.size))]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_rate_is_the_fraction_that_is_dropped(rate: float) -> None:
    found = [factors(key, 0, 500, 512, rate) == 0 for key in range(4)]
    sigma = np.sqrt(rate * (1 - rate) / found[0].size)
    assert all(abs(dropped.mean() - rate) < 4 * sigma for dropped in found)
    by_row, by_column = found[0].mean(axis=1), found[0].mean(axis=0)
    assert np.std(by_row) == pytest.approx(np.sqrt(rate * (1 - rate) / 512), rel=0.15)
    assert np.std(by_column) == pytest.approx(np.sqrt(rate * (1 - rate) / 500), rel=0.15)


def test_neighboring_elements_rows_steps_places_and_seeds_are_independent() -> None:
    def centered(seed: int, step: int, place: int, first_row: int = 0) -> np.ndarray:
        return (factors(Dropout(0.5, seed, step, 0, 1).key(place), first_row, 400, 256, 0.5) == 0) - 0.5

    m = centered(0, 1, 0)
    others = [centered(0, 1, 0, 400), centered(0, 1, 1), centered(0, 2, 0), centered(1, 1, 0), centered(1, 0, 0)]
    pairs = [(m, other) for other in others]
    pairs += [(m[:, lag:], m[:, :-lag]) for lag in (1, 2, 3, 8, 16, 64)] + [(m[lag:], m[:-lag]) for lag in (1, 2, 64)]
    for left, right in pairs:
        assert abs((left * right).mean() * 4) < 4 / np.sqrt(left.size)
    rank = np.linalg.matrix_rank(m[:256] + 0.5)
    assert rank >= 255  # rows are no sums of other rows


# ---- passes


@pytest.mark.parametrize(("B", "T", "H", "D", "first"), [(1, 1, 1, 1, 0), (2, 65, 2, 5, 3), (1, 260, 1, 8, 0)])
def test_attention_and_its_gradients_equal_the_reference_with_the_same_mask(
    B: int, T: int, H: int, D: int, first: int
) -> None:
    random, key, rate, C = np.random.default_rng(T), 12345, 0.3, H * D
    qkv, d_out = random.normal(size=(B, T, 3 * C)), random.normal(size=(B, T, C))
    mask = reference.dropout_factors(key, first * H * T, B * H * T, T, rate).reshape(B, H, T, T)
    q, k, v = np.split(qkv.astype(np.float32), 3, axis=2)
    out, lse = np.empty((B, T, C), np.float32), np.empty((B, H, T), np.float32)
    work = np.empty((threads.get_threads(), attention.workspace_size(T, D)), np.float32)
    attention.forward(out, lse, q, k, v, work, dropout=rate, dropout_key=key, first_sequence=first)
    assert relative_error(out, reference.attention_forward(qkv, H, mask)) < KERNEL_LIMIT
    d_q, d_k, d_v = np.split(np.empty((B, T, 3 * C), np.float32), 3, axis=2)
    attention.backward(
        d_q, d_k, d_v, d_out.astype(np.float32), out, lse, q, k, v, work, dropout=rate, dropout_key=key,
        first_sequence=first,
    )  # fmt: skip
    expected = reference.attention_backward(d_out, qkv, H, mask)
    assert relative_error(np.concatenate([d_q, d_k, d_v], axis=2), expected) < KERNEL_LIMIT


def test_tiled_attention_of_the_reference_equals_attention_with_the_same_mask() -> None:
    random = np.random.default_rng(0)
    qkv, d_y = random.normal(size=(2, 33, 18)), random.normal(size=(2, 33, 6))
    mask = reference.dropout_factors(1, 0, 2 * 3 * 33, 33, 0.4).reshape(2, 3, 33, 33)
    y, lse = reference.attention_tiled_forward(qkv, 3, 8, 5, mask)
    assert relative_error(y, reference.attention_forward(qkv, 3, mask)) < 1e-13
    d_qkv = reference.attention_tiled_backward(d_y, qkv, y, lse, 3, 8, 5, mask)
    assert relative_error(d_qkv, reference.attention_backward(d_y, qkv, 3, mask)) < 1e-12


def test_a_wrong_mask_in_the_backward_pass_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.backward

    def with_another_key(*arguments: object) -> None:
        *others, key, first_sequence = arguments
        right(*others, int(key) ^ 1, first_sequence)  # type: ignore[call-overload]

    monkeypatch.setattr(attention, "backward", with_another_key)
    errors = gradcheck.kernel_errors(SHAPE, 2, 9, 0, dropout=0.25)
    assert errors["h.0.attn.c_attn.weight"] > 100 * KERNEL_LIMIT


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_masks_depend_neither_on_threads_nor_on_micro_batches(products: str) -> None:
    drop = Dropout(0.3, 5, 9, 0, TIME)
    threads.set_threads(1)
    loss, whole = gradients_of(model(products), drop)
    without, _ = gradients_of(model(products), None)
    assert abs(loss - without) > 1e-3 * loss
    for count in (2, 3):
        threads.set_threads(count)
        found, gradients = gradients_of(model(products), drop)
        assert found == pytest.approx(loss, rel=1e-6)
        assert relative_error(gradients, whole) < (1e-5 if products == "float32" else 1e-3)
    parts = [gradients_of(model(products), drop, first, 1) for first in range(BATCH)]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-5)
    assert relative_error(sum(part[1] for part in parts), whole) < (1e-4 if products == "float32" else 1e-3)


def test_bfloat16_gradients_point_in_the_direction_of_float32() -> None:
    drop = Dropout(0.3, 5, 9, 0, TIME)
    exact, rounded = gradients_of(model(), drop)[1], gradients_of(model("bfloat16"), drop)[1]
    assert exact @ rounded > 0.999 * np.linalg.norm(exact) * np.linalg.norm(rounded)


def test_a_training_pass_leaves_no_dropout_behind_even_if_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt, drop = model(), Dropout(0.5, 0, 1, 0, TIME)
    tokens, targets = gradcheck.random_batch(SHAPE, BATCH, TIME, 0)
    expected = gpt.evaluate(tokens, targets)
    gradients_of(gpt, drop)
    assert gpt.evaluate(tokens, targets) == expected
    with monkeypatch.context() as patch:
        patch.setattr(gpt.transformer.head, "forward_backward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gradients_of(gpt, drop)
    assert gpt.evaluate(tokens, targets) == expected


def test_dropout_allocates_nothing() -> None:
    gpt = model()
    gradients_of(gpt, Dropout(0.5, 0, 1, 0, TIME))
    allocated = allocated_bytes(gpt.transformer) - gpt.parameters.flat.nbytes
    assert allocated == activation_bytes(SHAPE, BATCH, TIME, threads.get_threads())


# ---- runs


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_with_dropout_equals_the_uninterrupted_one(tmp_path: Path, precision: str) -> None:
    changes = {"dropout": 0.2, "precision": precision}
    whole, all_losses = in_one_go(tmp_path / "whole", 14, **changes)
    _, first = in_one_go(tmp_path / "cut", 6, **changes)
    settings = tiny_settings(tmp_path / "cut", max_steps=14, **changes)
    resumed, second = finished_trainer(settings, tmp_path / "cut" / LATEST)
    assert first + second == all_losses
    assert whole_state(resumed) == whole_state(whole)
    assert peek_checkpoint(tmp_path / "cut" / LATEST).settings.dropout == 0.2


def test_every_step_and_every_seed_has_masks_of_its_own() -> None:
    settings = read_overrides(assignments=["dropout=0.2"]).apply_to().settings
    drops = [dropout_of(settings, step, 0, 64) for step in (1, 2)]
    keys = [drop.key(place) for drop in drops if drop for place in range(13)]
    assert len(set(keys)) == 26


def test_masks_begin_at_the_first_sequence_of_each_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    right = GPT.loss_and_gradients

    def noted(self: GPT, *arguments: object) -> tuple[float, int]:
        seen.append(arguments[4])
        return right(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GPT, "loss_and_gradients", noted)
    train(tiny_settings(tmp_path, max_steps=2, dropout=0.2, seed=3))  # 8 sequences, 4 at a time
    assert seen == [Dropout(0.2, 3, step, first, 32) for step in (1, 2) for first in (0, 4)]


def test_a_self_test_memorizes_without_dropout() -> None:
    assert (
        dropout_of(read_overrides(assignments=["dropout=0.2", "overfit_tiny=true"]).apply_to().settings, 1, 0, 64)
        is None
    )
    assert dropout_of(read_overrides().apply_to().settings, 1, 0, 64) is None


def test_a_dropout_of_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dropout: got 1, expected a number of at least 0 and less than 1"):
        read_overrides(assignments=["dropout=1"]).apply_to()


@pytest.mark.slow
def test_training_with_dropout_learns(tmp_path: Path) -> None:
    found = losses(train(tiny_settings(tmp_path, max_steps=60, dropout=0.1)))
    assert np.mean(found[-5:]) < 0.6 * np.mean(found[:5])
