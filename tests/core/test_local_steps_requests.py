"""Requests within a round of local steps: most wait for its end, and a run that ends within it keeps its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core.distributed.communicator import RankError
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.training import events as ev
from gpt_core.training.metrics_log import read_metrics
from tests.core.fake_ranks import FakeRank, on_ranks, trainer_of
from tests.core.local_steps import alone_settings, local_settings
from tests.core.training_samples import LATEST, StepClock, events_with, of_kind, open_run, train


def test_a_stop_waits_for_the_end_of_the_round_and_is_reported(tmp_path: Path) -> None:
    def run(rank: FakeRank) -> list[ev.AnyEvent]:
        trainer = trainer_of(rank, local_settings(tmp_path, max_steps=0))
        return events_with(trainer, 5 if rank.rank == 1 else None, trainer.requests.stop)

    for events in on_ranks(2, run):
        assert of_kind(events, ev.RoundAwaited) == [ev.RoundAwaited(6, "stop", 8)]
        assert events[-1] == ev.RunFinished("stopped", 8)
    assert peek_checkpoint(tmp_path / LATEST).step == 8
    assert not any(isinstance(event, ev.RoundAwaited) for event in read_metrics(tmp_path / "models/metrics.jsonl"))


def test_a_pause_an_evaluation_and_a_save_wait_for_the_end_of_the_round(tmp_path: Path) -> None:
    trainer = open_run(alone_settings(tmp_path, max_steps=9, eval_every_steps=0))
    found = []
    for event in trainer.events():
        found.append(event)
        if isinstance(event, ev.StepCompleted) and event.step == 5:
            trainer.requests.pause()
            trainer.requests.evaluate()
            trainer.requests.save()
        if isinstance(event, ev.RunPaused):
            trainer.requests.unpause()
    assert of_kind(found, ev.RoundAwaited) == [ev.RoundAwaited(5, "pause", 8)]
    assert [event.step for event in of_kind(found, ev.RunPaused)] == [8]
    assert [event.step for event in of_kind(found, ev.EvalCompleted)] == [8, 9]
    assert [event.step for event in of_kind(found, ev.CheckpointSaved) if event.kind == "latest"] == [8, 9, 9]


def test_a_stop_without_a_save_ends_all_ranks_within_the_round_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    def run(rank: FakeRank) -> list[ev.AnyEvent]:
        trainer = trainer_of(rank, local_settings(tmp_path, max_steps=0, save_every_steps=1))
        return events_with(trainer, 6 if rank.rank == 1 else None, lambda: trainer.requests.stop(save=False))

    events = on_ranks(2, run)
    assert [found[-1] for found in events] == [
        ev.RunFinished("stopped", 7, saved=False), ev.RunFinished("stopped", 7)
    ]  # fmt: skip
    assert peek_checkpoint(tmp_path / LATEST).step == 4


@pytest.mark.parametrize("size", [1, 2])
def test_closing_the_iterator_within_a_round_keeps_the_last_checkpoint(size: int, tmp_path: Path) -> None:
    settings = local_settings(tmp_path, save_every_steps=1)

    def run(rank: FakeRank) -> None:
        trainer = trainer_of(rank, settings)
        events = trainer.events()
        for event in events:
            if isinstance(event, ev.StepCompleted) and event.step == 6 and rank.rank == 0:
                break
        events.close()
        assert trainer.step == 6 or rank.rank
        if size > 1:
            raise RankError("closed")

    if size == 1:
        on_ranks(1, run)
    else:
        with pytest.raises(RankError, match="closed"):
            on_ranks(2, run)
    assert peek_checkpoint(tmp_path / LATEST).step == 4


def test_closing_the_iterator_at_the_end_of_a_round_saves_it(tmp_path: Path) -> None:
    trainer = open_run(alone_settings(tmp_path))
    events = trainer.events()
    next(event for event in events if isinstance(event, ev.StepCompleted) and event.step == 8)
    events.close()
    assert peek_checkpoint(tmp_path / LATEST).step == 8


def test_the_deadline_ends_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StepClock(monkeypatch)
    settings = alone_settings(tmp_path, max_steps=0, sync_every_steps=1000, minutes=0.08, cooldown=0.5, warmup_steps=0)
    events = train(settings)
    last = of_kind(events, ev.StepCompleted)[-1]
    assert isinstance(last, ev.StepCompleted)
    assert last.step % 11 != 0  # not the end of an epoch
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("deadline", last.step)]
    assert of_kind(events, ev.EvalCompleted)[-1].step == last.step
    assert peek_checkpoint(tmp_path / LATEST).step == last.step
