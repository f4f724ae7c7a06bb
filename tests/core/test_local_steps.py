"""Rounds of local steps: weights, states and losses against plain NumPy, where rounds end, and figures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from gpt_core import reference
from gpt_core.bench.estimate import checkpoint_tensor_bytes, estimate_memory
from gpt_core.config.settings import Settings
from gpt_core.distributed.tree import leaves_of_rank
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.optim import OuterOptimizer
from gpt_core.optim.optimizer import Optimizer
from gpt_core.training import events as ev
from gpt_core.training.rounds import RoundEnds
from gpt_core.training.trainer import Trainer
from tests.core.fake_ranks import FakeRank, on_ranks, trainer_of
from tests.core.local_steps import ROUND, all_tensors, alone_settings, local_settings, trained
from tests.core.training_samples import events_with, losses, of_kind, open_run, tiny_settings, train

Tensors = dict[str, NDArray[np.float64]]
MEANS = {"outer_lr": 1.0, "outer_momentum": 0.0}
"""The weights after a round are the means over the ranks."""


# ---- what is computed


class Worker:
    """A worker in NumPy float64: AdamW on its own sequences. The gradients are those of the kernels."""

    def __init__(self, trainer: Trainer) -> None:
        self.settings = trainer.settings
        self.weights: Tensors = {name: tensor.astype(float) for name, tensor in trainer.parameters.tensors.items()}
        self.m, self.v = ({name: np.zeros_like(each) for name, each in self.weights.items()} for _ in range(2))
        self._float32, self._gradients = Parameters(trainer.shape), Parameters(trainer.shape)
        self._gpt = GPT(self._float32)

    def step(self, tokens: NDArray[np.int32], targets: NDArray[np.int32], number: int, share: float) -> float:
        """Take a local step, and return the sum of the losses."""
        settings = self.settings
        for name, values in self.weights.items():
            self._float32[name][:] = values
        self._gradients.flat.fill(0.0)
        weight = 1.0 / np.count_nonzero(targets >= 0)
        loss_sum = self._gpt.loss_and_gradients(tokens, targets, self._gradients, weight)[0]
        exact = {name: tensor.astype(float) for name, tensor in self._gradients.tensors.items()}
        clipped, _ = reference.clip_by_global_norm(exact, settings.grad_clip)
        for name, gradient in clipped.items():
            self.weights[name], self.m[name], self.v[name] = reference.adamw_step(
                self.weights[name], gradient, self.m[name], self.v[name], step=number, lr=settings.mlp_lr * share,
                beta1=settings.adam_beta1, beta2=settings.adam_beta2, eps=settings.adam_eps,
                weight_decay=settings.weight_decay if reference.decays(name) else 0.0,
            )  # fmt: skip
        return loss_sum


def mean_of(values: Sequence[Tensors]) -> Tensors:
    """Return the mean of each tensor."""
    return {name: np.mean([each[name] for each in values], axis=0) for name in values[0]}


def in_numpy(trainer: Trainer, count: int, steps: int) -> tuple[Tensors, Tensors, Tensors, Tensors, list[float]]:
    """Return weights, m, v, outer momentum, and losses, after some steps of the first epoch by this many workers."""
    settings, windows = trainer.settings, trainer.run.texts.windows
    workers = [Worker(trainer) for _ in range(count)]
    start = dict(workers[0].weights)
    momentum = {name: np.zeros_like(values) for name, values in start.items()}
    found = []
    for number in range(1, steps + 1):
        sums, targets = [], 0
        for rank, worker in enumerate(workers):
            first, stop = leaves_of_rank(rank, count, settings.batch_size)
            batch = windows.read(0, (number - 1) * settings.batch_size + first, stop - first)
            sums.append(worker.step(*batch, number, trainer._schedule.share(number)))
            targets += np.count_nonzero(batch[1] >= 0)
        found.append(sum(sums) / targets)
        if number % settings.sync_every_steps and number != steps:
            continue
        for name, values in start.items():
            changes = [worker.weights[name] - values for worker in workers]
            start[name], momentum[name] = reference.outer_step(
                values, changes, momentum[name], lr=settings.outer_lr, beta=settings.outer_momentum
            )
        m, v = mean_of([worker.m for worker in workers]), mean_of([worker.v for worker in workers])
        for worker in workers:
            worker.weights, worker.m, worker.v = dict(start), dict(m), dict(v)
    return start, m, v, momentum, found


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("changes", [{}, pytest.param(MEANS | {"sync_every_steps": 1}, marks=pytest.mark.slow)])
def test_weights_states_and_losses_are_those_of_workers_in_numpy(
    count: int, changes: dict[str, object], tmp_path: Path
) -> None:
    values = {"max_steps": 10, "adam_eps": 1e-3, "weight_decay": 0.1, "grad_clip": 0.5}  # eps: smooth in the gradient
    settings = local_settings(tmp_path, **(values | changes))
    expected: list[tuple[Tensors, Tensors, Tensors, Tensors, list[float]]] = []

    def run(rank: FakeRank) -> tuple[Trainer, list[ev.AnyEvent]]:
        trainer = trainer_of(rank, settings)
        if rank.rank == 0:
            expected.append(in_numpy(trainer, count, 10))
        return trainer, list(trainer.events())

    trainer, events = on_ranks(count, run)[0]
    weights, m, v, momentum, numbers = expected[0]
    assert trainer.run.outer is not None
    np.testing.assert_allclose(losses(events), numbers, rtol=1e-4)
    for found, exact in zip(
        (trainer.parameters, *trainer.run.saved_state.values()), (weights, m, v, momentum), strict=True
    ):
        for name, values in exact.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3 * np.abs(values).max() + 1e-9)


@pytest.mark.slow
def test_one_rank_that_takes_over_each_change_trains_like_a_synchronous_run(tmp_path: Path) -> None:
    plain = train(tiny_settings(tmp_path, models_dir=str(tmp_path / "a"), max_steps=12, adam_eps=1e-3))
    settings = tiny_settings(tmp_path, models_dir=str(tmp_path / "b"), max_steps=12, adam_eps=1e-3)
    local = train(replace(settings, sync_every_steps=1, outer_lr=1.0, outer_momentum=0.0))
    np.testing.assert_allclose(losses(local), losses(plain), rtol=1e-4)


def test_a_larger_outer_momentum_and_rate_take_longer_steps() -> None:
    shape = Settings(d_model=8, hidden_size=8, vocab_size=260, num_heads=1, seq_len=4, layers=1).shape

    def moved(outer_lr: float, outer_momentum: float) -> float:
        weights, change = Parameters(shape), Parameters(shape)
        outer = OuterOptimizer(weights, Settings(**_sizes(shape), outer_lr=outer_lr, outer_momentum=outer_momentum))
        outer.begin_round()
        change.flat.fill(1.0)
        outer.update(change)
        return float(weights["wte.weight"][0, 0])

    assert moved(1.0, 0.0) == 1.0
    assert moved(0.5, 0.0) == 0.5
    assert moved(1.0, 0.5) == 1.5
    assert moved(0.7, 0.9) == pytest.approx(0.7 * 1.9)


def _sizes(shape: object) -> dict[str, object]:
    return {name: getattr(shape, name) for name in shape.__struct_fields__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = Optimizer.gradient_norm
    broken: list[Optimizer] = []
    calls = itertools.count(1)

    def broken_at_the_sixth_step(optimizer: Optimizer, gradients: Parameters) -> float:
        found = norm(optimizer, gradients)
        return value if optimizer in broken and next(calls) == 6 else found

    monkeypatch.setattr(Optimizer, "gradient_norm", broken_at_the_sixth_step)

    def run(rank: FakeRank) -> tuple[list[ev.AnyEvent], tuple[bytes, ...]]:
        trainer = trainer_of(rank, local_settings(tmp_path, max_steps=8))
        if rank.rank == 1:
            broken.append(trainer.run.optimizer)
        return list(trainer.events()), all_tensors(trainer)

    results = on_ranks(2, run)
    for events, tensors in results:
        assert [event.step for event in of_kind(events, ev.UpdateSkipped)] == [6]
        assert tensors == results[0][1]


def test_the_logged_loss_is_the_mean_over_all_ranks_and_the_same_on_each(tmp_path: Path) -> None:
    settings = local_settings(tmp_path, max_steps=6)
    local, other = on_ranks(2, lambda rank: trained(rank, settings)[0])
    synchronous = train(replace(settings, sync_every_steps=0, models_dir=str(tmp_path / "other")))
    steps = [event for event in local if isinstance(event, ev.StepCompleted)]
    assert [event for event in other if isinstance(event, ev.StepCompleted)] == steps
    assert steps[0].loss == pytest.approx(losses(synchronous)[0], rel=1e-6)
    assert [event.tokens for event in steps] == [event.tokens for event in of_kind(synchronous, ev.StepCompleted)]


# ---- ends of rounds


@pytest.fixture
def ends(tmp_path: Path) -> RoundEnds:
    """Ends of rounds of four steps of a run that ends at step 30."""
    trainer = open_run(alone_settings(tmp_path, max_steps=30))
    assert trainer.run.texts.windows.windows_per_epoch == 82
    trainer.run.store.close()
    return RoundEnds(trainer.run)


def test_a_round_ends_at_multiples_at_the_end_of_an_epoch_and_at_the_last_step(ends: RoundEnds) -> None:
    steps = [step for step in range(1, 12) if ends.is_end(step, 8 * step)]
    assert steps == [4, 8, 11]
    assert [step for step in range(12, 23) if ends.is_end(step, 8 * (step - 11))] == [12, 16, 20, 22]
    assert [step for step in range(23, 31) if ends.is_end(step, 8 * (step - 22))] == [24, 28, 30]
    assert [ends.next_end(step, 8 * step) for step in (0, 3, 4, 7, 8, 10)] == [4, 4, 8, 8, 11, 11]
    assert [ends.next_end(step, 8 * (step - 22)) for step in (27, 28, 29)] == [28, 30, 30]


def test_intervals_are_counted_at_the_end_of_the_round_that_has_a_multiple(ends: RoundEnds) -> None:
    steps = [step for step in range(1, 12) if ends.has_multiple(5, step, 8 * step)]
    assert steps == [8, 11]
    assert [step for step in range(1, 12) if ends.has_multiple(4, step, 8 * step)] == [4, 8]
    assert [step for step in range(12, 23) if ends.has_multiple(3, step, 8 * (step - 11))] == [12, 16, 20, 22]
    assert not any(ends.has_multiple(0, step, 8 * step) for step in range(1, 12))


def test_evaluations_and_saves_within_a_round_take_place_at_its_end(tmp_path: Path) -> None:
    events = train(alone_settings(tmp_path, eval_every_steps=5, save_every_steps=3))
    assert [event.step for event in of_kind(events, ev.EvalCompleted)] == [8, 11, 16, 18]
    saved = {event.step for event in of_kind(events, ev.CheckpointSaved) if event.kind == "latest"}
    assert saved == {4, 8, 11, 12, 16, 18}


def test_all_ranks_have_the_same_weights_after_each_round_and_their_own_within_it(tmp_path: Path) -> None:
    settings = local_settings(tmp_path, ema=0.9, dropout=0.1)

    def run(rank: FakeRank) -> dict[int, tuple[bytes, ...]]:
        trainer = trainer_of(rank, settings)
        return {event.step: all_tensors(trainer) for event in trainer.events() if isinstance(event, ev.StepCompleted)}

    found = on_ranks(3, run)
    common = [step for step in found[0] if all(other[step] == found[0][step] for other in found)]
    assert common == [4, 8, 11, 12, 16, 18]


def test_a_rank_without_a_sequence_in_the_last_step_of_an_epoch_takes_no_step(tmp_path: Path) -> None:
    settings = local_settings(tmp_path, max_steps=11, sync_every_steps=100)
    before: dict[int, bytes] = {}
    after: dict[int, bytes] = {}

    def run(rank: FakeRank) -> list[ev.AnyEvent]:
        trainer = trainer_of(rank, settings)
        change = trainer.run.outer.change  # type: ignore[union-attr]

        def note(out: Parameters) -> None:
            after[rank.rank] = trainer.parameters.flat.tobytes()
            change(out)

        trainer.run.outer.change = note  # type: ignore[union-attr, method-assign]
        return events_with(trainer, 10, lambda: before.update({rank.rank: trainer.parameters.flat.tobytes()}))

    events = on_ranks(4, run)[0]
    assert [rank for rank in range(4) if before[rank] == after[rank]] == [1, 2, 3]
    assert all(np.isfinite(losses(events)))


# ---- figures


@pytest.mark.slow
def test_bytes_per_step_are_those_of_the_rounds_and_only_changes_are_rounded(tmp_path: Path) -> None:
    def sent(name: str, **changes: object) -> float:
        settings = local_settings(tmp_path, models_dir=str(tmp_path / name), max_steps=8, **changes)
        events = on_ranks(2, lambda rank: list(trainer_of(rank, settings).events()))[0]
        found = of_kind(events, ev.ExchangeMeasured)[-1]
        assert isinstance(found, ev.ExchangeMeasured)
        assert found.steps == 8
        assert 0 < found.exchange_s <= found.waited_s
        return found.sent_bytes / found.steps

    synchronous, rounds = sent("a", sync_every_steps=0), sent("b", sync_every_steps=4)
    assert rounds == pytest.approx(3 / 4 * synchronous, rel=0.01)  # of weights, m and v, in one step of four
    assert sent("c", sync_every_steps=8) == pytest.approx(rounds / 2)
    assert sent("d", sync_every_steps=4, exchange="bfloat16") == pytest.approx(5 / 6 * rounds, rel=0.01)
    assert sent("e", sync_every_steps=4, ema=0.9) == pytest.approx(4 / 3 * rounds, rel=0.01)


def test_memory_and_files_are_estimated_with_the_outer_optimizer(tmp_path: Path) -> None:
    local = alone_settings(tmp_path)
    plain = replace(local, sync_every_steps=0)
    weights = 4 * parameter_count(plain.shape)
    assert estimate_memory(local, 1).state - estimate_memory(plain, 1).state == 2 * weights
    assert checkpoint_tensor_bytes(local) - checkpoint_tensor_bytes(plain) == weights


@pytest.mark.slow
def test_the_log_has_the_gradients_and_updates_of_the_last_local_step(tmp_path: Path) -> None:
    def health(folder: str, **changes: object) -> ev.HealthMeasured:
        settings = tiny_settings(
            tmp_path, models_dir=str(tmp_path / folder), max_steps=1, eval_every_steps=1, **changes
        )
        found = of_kind(train(settings), ev.HealthMeasured)[-1]
        assert isinstance(found, ev.HealthMeasured)
        return found

    plain, local = health("plain"), health("local", sync_every_steps=1)
    assert local.grad_norms == plain.grad_norms
    assert local.update_ratios == plain.update_ratios
    assert local.norms != plain.norms  # those after the outer step


@pytest.mark.slow
def test_gradients_of_a_requested_evaluation_are_unknown(tmp_path: Path) -> None:
    trainer = open_run(alone_settings(tmp_path, max_steps=5, eval_every_steps=0))
    found = events_with(trainer, 2, trainer.requests.evaluate)
    health = next(event for event in found if isinstance(event, ev.HealthMeasured))
    assert health.step == 4
    assert set(health.grad_norms) == set(health.update_ratios) == {None}


def test_the_self_test_works_with_rounds(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, overfit_tiny=True, overfit_steps=9, overfit_lines=20, sync_every_steps=ROUND)
    events = train(settings)
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("overfit_done", 9)]
