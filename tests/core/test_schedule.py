"""Learning-rate schedules: warm-up, cosine decay, and a constant rate with a cooldown at the end of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core.config.settings import Settings
from gpt_core.optim.schedule import Schedule, ends_within_warmup
from gpt_core.training import events as ev
from tests.core.training_samples import (
    LATEST,
    finished_trainer,
    in_one_go,
    of_kind,
    open_run,
    tiny_settings,
    train,
    whole_state,
)

RATE = 1e-2  # of the tiny run


def shares(events: list[ev.AnyEvent]) -> list[float]:
    """Return the learning rate of every step as a fraction of the full rate."""
    return [event.lr / RATE for event in events if isinstance(event, ev.StepCompleted)]


def test_a_run_of_fewer_steps_than_its_warmup_ends_within_it_unless_the_warmup_follows_from_its_length() -> None:
    assert [ends_within_warmup(Settings(warmup_steps=100), steps) for steps in (99, 100)] == [True, False]
    assert ends_within_warmup(Settings(warmup_steps=100, minutes=1.0), 99)  # a warm-up that was requested
    assert not ends_within_warmup(Settings(warmup_steps=100, overfit_tiny=True), 99)


def test_the_schedule_rises_linearly_and_falls_as_a_cosine() -> None:
    schedule = Schedule(warmup_steps=10, decay_steps=100, min_share=0.1)
    assert [schedule.share(step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule.share(60) == pytest.approx(0.55)
    assert schedule.share(110) == schedule.share(10_000) == pytest.approx(0.1)
    assert Schedule(0, 0, 0.1).share(1) == 1.0


def test_a_cooldown_keeps_the_full_rate_and_falls_linearly_at_the_end() -> None:
    schedule = Schedule(warmup_steps=10, decay_steps=20, min_share=0.1, cooldown=0.4)
    assert schedule.share(5, 0.04) == pytest.approx(0.5)
    assert schedule.share(60, 0.59) == schedule.share(10, 0.1) == 1.0
    assert schedule.share(80, 0.8) == pytest.approx(0.55)
    assert schedule.share(100, 1.0) == schedule.share(120, 1.2) == pytest.approx(0.1)


def test_a_warm_up_that_reaches_into_the_cooldown_never_exceeds_it() -> None:
    schedule = Schedule(warmup_steps=100, decay_steps=0, min_share=0.0, cooldown=1.0)
    assert schedule.share(50, 0.9) == pytest.approx(0.1)
    assert schedule.share(50, 0.1) == pytest.approx(0.5)


def test_the_cooldown_of_a_run_ends_with_its_last_step(tmp_path: Path) -> None:
    found = shares(train(tiny_settings(tmp_path, max_steps=20, cooldown=0.5, min_lr_share=0.0)))
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4:11] == [1.0] * 7
    assert found[11:] == pytest.approx([1 - 0.1 * n for n in range(1, 10)])


def test_without_max_steps_the_cooldown_ends_with_the_last_epoch(tmp_path: Path) -> None:
    found = shares(train(tiny_settings(tmp_path, max_epochs=2, cooldown=1.0, min_lr_share=0.0, warmup_steps=0)))
    assert found == pytest.approx([1 - n / len(found) for n in range(len(found))])


def test_without_a_cooldown_the_number_of_steps_does_not_change_the_rate(tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    short = train(tiny_settings(tmp_path / "short", max_steps=5))
    assert shares(short) == pytest.approx([Schedule(4, 40, 0.1).share(step) for step in range(1, 6)])


@pytest.mark.parametrize("cut", [3, 13])
def test_a_run_stopped_before_or_during_the_cooldown_resumes_to_the_bit(tmp_path: Path, cut: int) -> None:
    whole, all_losses = in_one_go(tmp_path / "whole", 20, cooldown=0.5)
    folder = tmp_path / "cut"
    folder.mkdir()
    settings = tiny_settings(folder, max_steps=20, cooldown=0.5)
    trainer = open_run(settings)
    for _ in trainer.events():
        if trainer.step == cut:
            trainer.requests.stop()
    resumed, later = finished_trainer(settings, folder / LATEST)
    assert later == all_losses[cut:]
    assert whole_state(resumed) == whole_state(whole)


def test_more_steps_on_a_resume_move_the_cooldown_to_the_new_end(tmp_path: Path) -> None:
    changes = {"cooldown": 0.5, "min_lr_share": 0.0, "warmup_steps": 0}
    train(tiny_settings(tmp_path, max_steps=10, **changes))
    events = train(tiny_settings(tmp_path, max_steps=40, **changes), tmp_path / LATEST)
    found = shares(events)
    assert found[:11] == [1.0] * 11  # steps 11 to 21: the rate has risen again
    assert found[-1] == pytest.approx(1 / 20)
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("max_steps", 40)]


def test_a_run_resumed_from_before_its_cooldown_equals_a_longer_run(tmp_path: Path) -> None:
    whole, all_losses = in_one_go(tmp_path / "whole", 24, cooldown=0.25)
    folder = tmp_path / "short"
    folder.mkdir()
    trainer = open_run(tiny_settings(folder, max_steps=16, cooldown=0.25))
    for _ in trainer.events():
        if trainer.step == 12:  # the cooldown begins with step 14
            trainer.requests.stop()
    longer, later = finished_trainer(tiny_settings(folder, max_steps=24, cooldown=0.25), folder / LATEST)
    assert later == all_losses[12:]
    assert whole_state(longer) == whole_state(whole)
