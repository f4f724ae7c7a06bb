"""Runs with local steps that are stopped, or lose a rank, at any step, and are resumed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import Checkpoint, peek_checkpoint, read_checkpoint
from gpt_core.optim import OUTER_MOMENTUM
from gpt_core.training import events as ev
from tests.core.fake_ranks import FakeRank, cut_at, on_ranks, trainer_of
from tests.core.local_steps import ROUND, all_tensors, alone_settings, local_settings, trained
from tests.core.training_samples import LATEST, events_with, losses, open_run, train

OTHERS: list[dict[str, object]] = [
    {},
    {"ema": 0.9, "dropout": 0.2},
    {"optimizer": "muon", "exchange": "bfloat16", "freeze": "positions"},
]


def stopped_at(rank: FakeRank, settings: Settings, step: int) -> list[ev.AnyEvent]:
    """Train until a stop is requested on the last rank after a step, and return the events."""
    trainer = trainer_of(rank, settings)
    return events_with(trainer, step if rank.rank == len(rank.hosts) - 1 else None, trainer.requests.stop)


def scores(events: Sequence[object]) -> list[object]:
    """Return the evaluations."""
    return [event for event in events if isinstance(event, ev.EvalCompleted)]


def check_exact_after_stops(steps: Sequence[int], size: int, changes: dict[str, object], folder: Path) -> None:
    """Check that a run that is stopped after some steps, and resumed each time, equals an uninterrupted one."""
    whole = local_settings(folder, models_dir=str(folder / "whole"), **changes)
    expected = on_ranks(size, lambda rank: trained(rank, whole)[:2])[0]
    for step in steps:
        settings = local_settings(folder, models_dir=str(folder / f"cut{step}"), **changes)
        before = on_ranks(size, lambda rank, settings=settings, step=step: stopped_at(rank, settings, step))[0]
        latest = CheckpointStore(settings.models_dir).path_of("latest")
        reached = peek_checkpoint(latest).step
        possible = [end for end in (4, 8, 11, 12, 16, 18) if end >= step]
        later = step == possible[0]  # the other ranks may learn of the request in the next step only
        assert reached in possible[: 1 + later]
        events, tensors = on_ranks(size, lambda rank, s=settings, path=latest: trained(rank, s, path)[:2])[0]
        assert tensors == expected[1]
        completed = [event for event in expected[0] if isinstance(event, ev.StepCompleted)]
        assert [event for event in events if isinstance(event, ev.StepCompleted)] == completed[reached:]
        assert scores(before) + scores(events) == scores(expected[0])


@pytest.mark.parametrize("changes", [OTHERS[0], *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS[1:])])
def test_a_run_stopped_within_a_round_and_resumed_equals_an_uninterrupted_one(
    changes: dict[str, object], tmp_path: Path
) -> None:
    check_exact_after_stops([9], 2, changes, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("changes", OTHERS)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_run_stopped_after_any_step_and_resumed_equals_an_uninterrupted_one(
    size: int, changes: dict[str, object], tmp_path: Path
) -> None:
    check_exact_after_stops(range(1, 17), size, changes, tmp_path)


@pytest.mark.slow
def test_a_checkpoint_resumes_on_another_number_of_ranks(tmp_path: Path) -> None:
    settings = local_settings(tmp_path, max_steps=8)
    on_ranks(3, lambda rank: trained(rank, settings)[:2])

    def resumed(rank: FakeRank, steps: int) -> tuple[bytes, ...]:
        trainer = trainer_of(rank, replace(settings, max_steps=steps), tmp_path / LATEST)
        found = all_tensors(trainer)
        assert all(np.isfinite(losses(list(trainer.events()))))
        assert trainer.step == steps
        return found

    for size, steps in ((2, 16), (1, 24)):
        saved = tensors_of(read_checkpoint(tmp_path / LATEST))
        starts = on_ranks(size, lambda rank, steps=steps: resumed(rank, steps))
        assert set(starts) == {saved}
        assert tensors_of(read_checkpoint(tmp_path / LATEST)) != saved


def tensors_of(checkpoint: Checkpoint) -> tuple[bytes, ...]:
    """Return the tensors of a checkpoint in the order of `all_tensors`."""
    assert checkpoint.optimizer_state is not None
    weights = (checkpoint.parameters, checkpoint.parameters)
    return tuple(each.flat.tobytes() for each in (*weights, *checkpoint.optimizer_state.values()))


@pytest.mark.slow
def test_rounds_may_begin_and_end_on_a_resume(tmp_path: Path) -> None:
    settings = alone_settings(tmp_path, max_steps=6, sync_every_steps=0)
    train(settings)
    assert OUTER_MOMENTUM not in (read_checkpoint(tmp_path / LATEST).optimizer_state or {})
    trainer = open_run(replace(settings, max_steps=10, sync_every_steps=ROUND), resume=tmp_path / LATEST)
    assert trainer.run.outer is not None
    assert not trainer.run.outer.momentum.flat.any()
    list(trainer.events())
    momentum = (read_checkpoint(tmp_path / LATEST).optimizer_state or {})[OUTER_MOMENTUM]
    assert momentum.flat.any()
    other = open_run(replace(settings, max_steps=14, sync_every_steps=7), resume=tmp_path / LATEST)
    assert other.run.outer is not None
    assert other.run.outer.momentum.flat.tobytes() == momentum.flat.tobytes()
    other.run.store.close()
    events = train(replace(settings, max_steps=14, sync_every_steps=0), tmp_path / LATEST)
    assert len(losses(events)) == 4
    assert tuple(read_checkpoint(tmp_path / LATEST).optimizer_state or ()) == ("adam_m", "adam_v")


# ---- lost ranks


def check_exact_after_loss(
    collectives: Sequence[int], expected: tuple[list[object], tuple[bytes, ...]], folder: Path
) -> None:
    """Check that a run that ended at a collective operation equals the complete one once it is resumed."""
    for collective in collectives:
        settings = local_settings(folder, models_dir=str(folder / str(collective)), max_steps=9, save_every_steps=1)
        cut_at(collective, settings)
        saved = CheckpointStore(settings.models_dir).list()
        newest = max(saved, key=lambda found: (found.step, found.saved_at)).path if saved else None  # type: ignore[union-attr]
        assert newest is None or peek_checkpoint(newest).step in (4, 8, 9, 0)
        events, tensors = on_ranks(2, lambda rank, s=settings, path=newest: trained(rank, s, path)[:2])[0]
        assert tensors == expected[1]
        completed = [event for event in expected[0] if isinstance(event, ev.StepCompleted)]
        resumed = [event for event in events if isinstance(event, ev.StepCompleted)]
        assert resumed == completed[len(completed) - len(resumed) :]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], tuple[bytes, ...]]:
    """Events and tensors of a run of nine steps on two ranks."""
    settings = local_settings(tmp_path_factory.mktemp("complete"), max_steps=9, save_every_steps=1)
    return on_ranks(2, lambda rank: trained(rank, settings)[:2])[0]


@pytest.mark.parametrize("collective", [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (8, 9))])
def test_a_rank_lost_within_a_round_leaves_the_state_of_its_start(
    collective: int, complete: tuple[list[object], tuple[bytes, ...]], tmp_path: Path
) -> None:
    check_exact_after_loss([collective], complete, tmp_path)


@pytest.mark.slow
def test_a_rank_lost_at_any_operation_leaves_a_state_from_which_a_resume_is_exact(
    complete: tuple[list[object], tuple[bytes, ...]], tmp_path: Path
) -> None:
    operations, _ = cut_at(-1, local_settings(tmp_path, max_steps=9, save_every_steps=1))
    assert operations > 20
    check_exact_after_loss(range(1, operations + 1), complete, tmp_path)
