"""Time budget: a run ends at its deadline, its cooldown with it, and a resume is exact."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.formats.training_state import Plan
from gpt_core.model.gpt import GPT, EvalSums
from gpt_core.training import events as ev
from gpt_core.training import timing
from gpt_core.training import trainer as trainer_module
from gpt_core.training.request import raised_limits
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import LATEST, StepClock, losses, of_kind, open_run, tiny_settings, train, whole_state

BUDGET = {
    "minutes": 0.5, "cooldown": 0.5, "min_lr_share": 0.0, "warmup_steps": 0, "eval_every_steps": 7,
    "improvement_threshold": 0.0, "sample_tokens": 0,
}  # fmt: skip
RATE = 1e-2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StepClock:
    return StepClock(monkeypatch)


def shares(events: list[ev.AnyEvent]) -> list[float]:
    """Return the learning rate of every step as a fraction of the full rate."""
    return [event.lr / RATE for event in events if isinstance(event, ev.StepCompleted)]


def plan(**changes: object) -> Plan:
    return msgspec.structs.replace(Plan(100, 0.25, 500, 15.0, 0.1, 60.0), **changes)


def test_progress_is_spread_evenly_over_the_steps_that_are_planned() -> None:
    assert plan().progress_at(100) == 0.25
    assert plan().progress_at(300) == pytest.approx(0.625)
    assert plan().progress_at(500) == plan().progress_at(900) == 1.0


def test_plans_are_made_after_a_doubling_of_the_steps_and_often_before_the_end() -> None:
    assert [plan(step=step, last_step=10_000).next_step for step in (0, 1, 2, 8)] == [1, 2, 4, 16]
    assert plan().next_step == 150
    assert [plan(step=step).next_step for step in (492, 498, 499)] == [493, 499, 500]


def test_a_run_ends_within_a_step_of_its_deadline(tmp_path: Path, clock: StepClock) -> None:
    events = train(tiny_settings(tmp_path, **BUDGET))
    last = of_kind(events, ev.StepCompleted)[-1]
    assert isinstance(last, ev.StepCompleted)
    assert 30.0 <= last.elapsed_s < 30.0 + 2 * last.elapsed_s / last.step
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("deadline", last.step)]


def test_the_cooldown_ends_at_the_deadline(tmp_path: Path, clock: StepClock) -> None:
    events = train(tiny_settings(tmp_path, **BUDGET))
    found = shares(events)
    half = len(found) // 2
    assert found[: half - 3] == [1.0] * (half - 3)
    assert all(later < earlier for earlier, later in itertools.pairwise(found[half + 3 :]))
    assert found[-1] < 0.1


def test_a_machine_that_becomes_four_times_slower_still_cools_down_before_the_deadline(
    tmp_path: Path, clock: StepClock
) -> None:
    trainer, events = open_run(tiny_settings(tmp_path, **BUDGET)), []
    for event in trainer.events():
        events.append(event)
        if trainer.state.elapsed_s > 15:
            clock.step_s = 2.0
    found = shares(events)
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("deadline", trainer.step)]
    assert max(b - a for a, b in itertools.pairwise(found)) <= 0  # the rate never rises again
    assert found[-1] < 0.2


def test_the_weights_at_the_deadline_are_evaluated_and_the_best_ones_are_saved_as_transformer(
    tmp_path: Path, clock: StepClock
) -> None:
    events = train(tiny_settings(tmp_path, **BUDGET | {"eval_every_steps": 1000, "max_epochs": 1000}))
    last = of_kind(events, ev.RunFinished)[-1].step
    evaluation, health = (of_kind(events, kind)[-1] for kind in (ev.EvalCompleted, ev.HealthMeasured))
    assert evaluation.step == health.step == last
    assert None not in health.update_ratios
    assert {event.kind for event in of_kind(events, ev.CheckpointSaved)} >= {"latest", "best", "final"}
    best = peek_checkpoint(tmp_path / "models/transformer.safetensors")
    assert best.step == peek_checkpoint(tmp_path / "models/best_model.safetensors").state.best_step
    assert peek_checkpoint(tmp_path / LATEST).state.finished == "deadline"


def test_the_last_step_is_saved_before_an_evaluation_that_was_scheduled_at_the_deadline(
    tmp_path: Path, clock: StepClock
) -> None:
    events = train(
        tiny_settings(tmp_path, **BUDGET | {"minutes": 29.25 / 60, "eval_every_steps": 1, "eval_tokens": 64})
    )
    last = of_kind(events, ev.RunFinished)[-1].step
    evaluation = next(event for event in events if isinstance(event, ev.EvalCompleted) and event.step == last)
    before = events[: events.index(evaluation)]
    assert [event.step for event in of_kind(before, ev.CheckpointSaved) if event.kind == "latest"] == [last]
    assert [event.step for event in of_kind(events, ev.FullEvalCompleted)][-1] == last


def test_the_save_before_the_last_evaluation_is_no_training_time(
    tmp_path: Path, clock: StepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=3))
    save = trainer._last_save.save

    def after_an_hour() -> Iterator[ev.AnyEvent]:
        clock.now += 3600.0
        yield from save()

    monkeypatch.setattr(trainer._last_save, "save", after_an_hour)
    list(trainer.events())
    assert 0.0 < peek_checkpoint(tmp_path / LATEST).state.elapsed_s < 3600.0


def test_a_run_that_has_diverged_is_not_evaluated_at_its_deadline(
    tmp_path: Path, clock: StepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GPT, "loss_and_gradients", lambda *_: (1e6, 1))
    events = train(tiny_settings(tmp_path, **BUDGET | {"minutes": 0.1, "eval_every_steps": 0}))
    assert of_kind(events, ev.RunFinished)[-1].reason == "diverged"
    assert not of_kind(events, ev.EvalCompleted)


def test_pauses_do_not_count(tmp_path: Path, clock: StepClock, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_run(tiny_settings(tmp_path, **BUDGET))

    def sleep(_seconds: float) -> None:
        clock.now += 10_000
        trainer.requests.unpause()

    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter))
    for event in trainer.events():
        if isinstance(event, ev.StepCompleted) and event.step == 5:
            trainer.requests.pause()
    assert clock.now > 10_000
    assert trainer.step > 10


def finished(trainer: Trainer, stop_at: int = 0) -> list[ev.AnyEvent]:
    """Return the events of a run up to its end or to a step."""
    events = []
    for event in trainer.events():
        events.append(event)
        if 0 < stop_at <= trainer.step:
            trainer.requests.stop()
    return events


@pytest.mark.parametrize("cut", [7, *(pytest.param(cut, marks=pytest.mark.slow) for cut in (1, 20, 45))])
def test_a_run_that_was_stopped_and_resumed_equals_one_in_the_same_time_without_a_break(
    tmp_path: Path, clock: StepClock, cut: int
) -> None:
    (tmp_path / "whole").mkdir()
    whole = open_run(tiny_settings(tmp_path / "whole", **BUDGET))
    expected = finished(whole)
    settings = tiny_settings(tmp_path, **BUDGET)
    events = finished(open_run(settings), cut)
    resumed = open_run(settings, resume=tmp_path / LATEST)
    assert resumed.step == cut
    events += finished(resumed)
    assert (losses(events), shares(events)) == (losses(expected), shares(expected))
    assert whole_state(resumed) == whole_state(whole)
    assert of_kind(events, ev.RunFinished)[-1] == ev.RunFinished("deadline", 60)


def test_a_resume_continues_the_plan_of_the_checkpoint(tmp_path: Path, clock: StepClock) -> None:
    settings = tiny_settings(tmp_path, **BUDGET)
    finished(open_run(settings), 9)
    saved = peek_checkpoint(tmp_path / LATEST).state.plan
    resumed = open_run(settings, resume=tmp_path / LATEST)
    assert resumed.state.plan == saved
    started = next(iter(resumed.events()))
    assert saved is not None
    assert (started.max_steps, started.minutes) == (saved.last_step, 0.5)


@pytest.mark.slow
def test_a_resume_with_more_minutes_continues_and_cools_down_again(tmp_path: Path, clock: StepClock) -> None:
    first = finished(open_run(tiny_settings(tmp_path, **BUDGET)))
    second = open_run(tiny_settings(tmp_path, **BUDGET | {"minutes": 1.0}), resume=tmp_path / LATEST)
    events = finished(second)
    assert events[0].elapsed_s == pytest.approx(30, abs=3)
    assert shares(first)[-1] < 0.1
    assert shares(events)[0] > 0.9  # half of the new budget is over: the new cooldown begins
    assert shares(events)[-1] < 0.1
    assert 59 <= of_kind(events, ev.StepCompleted)[-1].elapsed_s < 63


@pytest.mark.parametrize("limit", [{}, {"minutes": 0.0, "max_steps": 9}])
def test_the_evaluation_at_the_end_is_no_training_time(
    tmp_path: Path, clock: StepClock, monkeypatch: pytest.MonkeyPatch, limit: dict[str, object]
) -> None:
    evaluate = GPT.evaluate

    def slow_evaluate(*arguments: Any) -> EvalSums:
        clock.now += 0.25
        return evaluate(*arguments)

    monkeypatch.setattr(GPT, "evaluate", slow_evaluate)
    events = finished(open_run(tiny_settings(tmp_path, **BUDGET | {"eval_every_steps": 1000} | limit)))
    state = peek_checkpoint(tmp_path / LATEST).state
    assert of_kind(events, ev.EvalCompleted)[-1].step == state.step
    assert state.elapsed_s == of_kind(events, ev.StepCompleted)[-1].elapsed_s


def test_a_resume_raises_a_budget_that_is_used(tmp_path: Path, clock: StepClock) -> None:
    finished(open_run(tiny_settings(tmp_path, **BUDGET)))
    assert raised_limits(peek_checkpoint(tmp_path / LATEST)) == {"minutes": 1.0}


def test_a_budget_that_is_left_unused_is_not_raised(tmp_path: Path, clock: StepClock) -> None:
    finished(open_run(tiny_settings(tmp_path, **BUDGET | {"max_steps": 5})))
    assert raised_limits(peek_checkpoint(tmp_path / LATEST)) == {"max_steps": 0}


def test_max_steps_before_the_deadline_is_the_end_of_the_cooldown(tmp_path: Path, clock: StepClock) -> None:
    events = train(tiny_settings(tmp_path, **BUDGET | {"max_steps": 12}))
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("max_steps", 12)]
    assert shares(events)[-1] < 0.25


@pytest.mark.parametrize("stop_at", [0, 8])
def test_a_resume_without_max_steps_has_the_full_rate_until_the_cooldown_of_its_budget(
    tmp_path: Path, clock: StepClock, stop_at: int
) -> None:
    finished(open_run(tiny_settings(tmp_path, **BUDGET | {"max_steps": 12})), stop_at)
    resumed = open_run(tiny_settings(tmp_path, **BUDGET), resume=tmp_path / LATEST)
    first = resumed.step
    found = shares(finished(resumed))
    assert resumed.step == 60
    assert found[: 30 - first] == [1.0] * (30 - first)
    assert found[-1] < 0.1


def test_a_resume_with_fewer_steps_than_planned_cools_down_before_the_last(tmp_path: Path, clock: StepClock) -> None:
    finished(open_run(tiny_settings(tmp_path, **BUDGET)), 20)
    resumed = open_run(tiny_settings(tmp_path, **BUDGET | {"max_steps": 25}), resume=tmp_path / LATEST)
    events = finished(resumed)
    assert (events[0].max_steps, events[-1].step) == (25, 25)
    assert shares(events) == pytest.approx([0.4, 0.32, 0.24, 0.16, 0.08], abs=0.02)


def test_without_a_budget_a_resumed_run_has_no_plan(tmp_path: Path, clock: StepClock) -> None:
    finished(open_run(tiny_settings(tmp_path, **BUDGET)), 9)
    resumed = open_run(tiny_settings(tmp_path, **BUDGET | {"minutes": 0.0, "max_steps": 20}), resume=tmp_path / LATEST)
    assert of_kind(finished(resumed), ev.PlanMade) == []
    assert resumed.state.plan is None


def test_the_last_step_is_unknown_before_the_first_step(tmp_path: Path, clock: StepClock) -> None:
    events = train(tiny_settings(tmp_path, **BUDGET | {"minutes": 0.1}))
    assert isinstance(events[0], ev.RunStarted)
    assert (events[0].max_steps, events[0].minutes) == (0, 0.1)
    plans = of_kind(events, ev.PlanMade)
    assert (plans[0].step_s, plans[0].step) == (0.0, 0)
    assert plans[-1].last_step == plans[-1].step == events[-1].step


def test_time_before_the_first_event_and_between_two_events_does_not_count(tmp_path: Path, clock: StepClock) -> None:
    trainer = open_run(tiny_settings(tmp_path, **BUDGET))
    clock.now += 10_000
    for _ in trainer.events():
        clock.now += 1_000
    assert trainer.step == 60


def test_blocks_in_which_the_clock_is_stopped_may_be_nested(clock: StepClock) -> None:
    found = timing.RunClock(5.0)
    clock.now += 1
    assert found.elapsed_s == 5.0  # not started
    found.start()
    clock.now += 2
    with found.stopped():
        clock.now += 4
        with found.stopped():
            clock.now += 8
        clock.now += 16
    clock.now += 32
    assert found.elapsed_s == 5.0 + 2 + 32
