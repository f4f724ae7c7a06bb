"""Early stopping: which evaluation is the best, and which ones count towards the patience."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import TrainingState, peek_checkpoint
from gpt_core.formats.training_state import BestScores
from gpt_core.model.scores import EvalScores
from gpt_core.training import events as ev
from gpt_core.training.early_stopping import patience_is_over, record_evaluation
from tests.core.training_samples import (
    LATEST,
    events_with,
    finished_trainer,
    in_one_go,
    losses,
    of_kind,
    open_run,
    tiny_settings,
    train,
)


def test_early_stopping_counts_scheduled_evaluations_without_improvement(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, patience=2, improvement_threshold=1.0, eval_every_steps=0)
    events = train(settings)
    started = of_kind(events, ev.RunStarted)[0]
    # the first epoch's score is the best; the two after it are not better by a whole 1.0
    assert of_kind(events, ev.RunFinished) == [ev.RunFinished("early_stopping", 3 * started.steps_per_epoch)]
    assert [event.kind for event in of_kind(events, ev.CheckpointSaved)] == ["best", "final", "latest"]
    scores = of_kind(events, ev.EvalCompleted)
    assert [(score.is_best, score.without_improvement) for score in scores] == [(True, 0), (False, 1), (False, 2)]


@pytest.mark.slow
def test_early_stopping_waits_for_the_end_of_the_warm_up_and_for_the_minimum_number_of_steps(tmp_path: Path) -> None:
    changes = {"improvement_threshold": 1.0, "eval_every_steps": 5, "patience": 3}
    for number, (warmup, least) in enumerate([(0, 0), (40, 0), (40, 25), (0, 33)]):
        settings = tiny_settings(
            tmp_path, **changes, warmup_steps=warmup, patience_min_steps=least, models_dir=str(tmp_path / str(number))
        )
        events = train(settings)
        per_epoch = of_kind(events, ev.RunStarted)[0].steps_per_epoch
        # the first evaluation, at step 5, stays the best
        scheduled = [step for step in range(6, 200) if step % 5 == 0 or step % per_epoch == 0]
        counted = [step for step in scheduled if step > warmup]
        end = next(step for step in counted[2:] if step - max(5, warmup) >= least)
        assert of_kind(events, ev.RunFinished) == [ev.RunFinished("early_stopping", end)], (warmup, least)


def test_early_stopping_ends_at_the_same_step_after_resumes(tmp_path: Path) -> None:
    changes = {"patience": 3, "improvement_threshold": 0.5}
    whole = train(tiny_settings(tmp_path, **changes, models_dir=str(tmp_path / "whole")))
    end = of_kind(whole, ev.RunFinished)[0]
    assert end.reason == "early_stopping"
    path, step = None, 0
    while step < end.step:
        settings = tiny_settings(tmp_path, **changes, max_steps=step + 7)
        last = train(settings, path)[-1]
        path, step = tmp_path / LATEST, last.step
    assert last == end


@pytest.mark.parametrize(("patience", "threshold", "cuts"), [(1, 0.3, (8, 13)), (2, 0.5, (9, 17))])
def test_an_evaluation_that_a_longer_run_does_not_have_changes_nothing_for_early_stopping(
    tmp_path: Path, patience: int, threshold: float, cuts: tuple[int, int]
) -> None:
    """Between two scheduled evaluations it is the best one, at the end of a shorter run or on request."""
    changes = {"patience": patience, "best_metric": "loss", "improvement_threshold": threshold, "sample_tokens": 0}
    whole, all_losses = in_one_go(tmp_path / "whole", 200, **changes)
    assert whole.state.finished == "early_stopping"
    for cut in cuts:
        folder = tmp_path / str(cut)
        in_one_go(folder, cut, **changes)
        assert peek_checkpoint(folder / LATEST).state.best_step == cut
        resumed, rest = finished_trainer(tiny_settings(folder, max_steps=200, **changes), folder / LATEST)
        assert rest == all_losses[cut:]
        assert early_stopping(resumed.state) == early_stopping(whole.state)
        assert resumed.state.best_loss <= whole.state.best_loss
        requested = open_run(tiny_settings(tmp_path, **changes, models_dir=str(folder / "requested")))
        events = events_with(requested, cut, requested.requests.evaluate)
        assert losses(events) == all_losses
        evaluations = {event.step: event for event in of_kind(events, ev.EvalCompleted)}
        assert [step for step, event in evaluations.items() if not event.is_scheduled] == [cut]
        assert evaluations[cut].is_best
        assert early_stopping(requested.state) == early_stopping(whole.state)


def early_stopping(state: TrainingState) -> tuple[object, ...]:
    """Return what the end of a run by early stopping depends on."""
    return state.best_scheduled or state.best, state.evaluations_without_improvement, state.patience_from


@pytest.mark.slow
def test_a_text_of_a_few_kilobytes_does_not_stop_early_with_the_default_settings(tmp_path: Path) -> None:
    """An epoch has about a dozen steps, some end with an evaluation; none of these is an improvement here."""
    nano = preset("nano")
    names = ("patience", "patience_min_steps", "warmup_steps", "eval_every_steps", "max_epochs")
    settings = tiny_settings(
        tmp_path, **{name: getattr(nano, name) for name in names}, best_metric="loss", improvement_threshold=100.0
    )
    events = train(settings)
    end = of_kind(events, ev.RunFinished)[0]
    assert end.reason == "max_epochs"
    assert end.step > nano.warmup_steps
    assert of_kind(events, ev.EvalCompleted)[-1].without_improvement >= nano.patience


def test_a_gain_below_the_threshold_is_no_improvement() -> None:
    settings, state = Settings(improvement_threshold=0.01), TrainingState(run_id="r", step=5)
    assert record_evaluation(state, 5.0, 0.0, settings, is_scheduled=True)  # the first is the best, even of nothing
    assert not record_evaluation(state, 1.0, 0.009, settings, is_scheduled=True)
    assert record_evaluation(state, 5.0, 0.01, settings, is_scheduled=True)
    assert (state.best_accuracy, state.best_loss) == (0.01, 5.0)


def test_the_best_loss_is_the_lowest_by_the_threshold_whatever_the_accuracy() -> None:
    settings, state = Settings(best_metric="loss", improvement_threshold=0.01), TrainingState(run_id="r", step=60)
    assert not record_evaluation(state, math.nan, 0.0, settings, is_scheduled=True)
    assert not state.is_scored
    assert record_evaluation(state, 5.298, 0.251, settings, is_scheduled=True)
    state.step = 120
    assert not record_evaluation(state, 5.29, 0.5, settings, is_scheduled=True)
    assert record_evaluation(state, 4.777, 0.211, settings, is_scheduled=True)
    assert (state.best_step, state.best_loss, state.best_accuracy) == (120, 4.777, 0.211)


def test_an_evaluation_on_request_or_of_the_same_step_does_not_count_towards_the_patience() -> None:
    settings, state = Settings(patience=1, warmup_steps=10), TrainingState(run_id="r", step=5)
    record_evaluation(state, 3.0, 0.3, settings, is_scheduled=True)

    def recorded(step: int, *, is_scheduled: bool) -> int:
        state.step = step
        record_evaluation(state, 3.0, 0.2, settings, is_scheduled=is_scheduled)
        state.last_eval = EvalScores(step, 3.0, 0.2, 1.5)
        return state.evaluations_without_improvement

    assert recorded(10, is_scheduled=True) == 0  # the last step of the warm-up
    assert recorded(11, is_scheduled=False) == 0
    assert not patience_is_over(state, settings)
    assert recorded(12, is_scheduled=True) == 1
    assert patience_is_over(state, settings)
    assert recorded(12, is_scheduled=True) == 1


def test_the_best_evaluation_may_be_one_that_early_stopping_does_not_count() -> None:
    settings, state = Settings(improvement_threshold=0.01, warmup_steps=5), TrainingState(run_id="r")

    def record(step: int, accuracy: float, *, is_scheduled: bool) -> tuple[bool, int, int, int]:
        state.step = step
        is_best = record_evaluation(state, 3.0, accuracy, settings, is_scheduled=is_scheduled)
        return is_best, state.best_step, state.patience_from, state.evaluations_without_improvement

    assert record(1, 0.05, is_scheduled=False) == (True, 1, 0, 0)
    assert state.best_scheduled == BestScores()
    assert record(10, 0.1, is_scheduled=True) == (True, 10, 10, 0)
    assert state.best_scheduled is None
    assert record(15, 0.3, is_scheduled=False) == (True, 15, 10, 0)
    assert state.best_scheduled == BestScores(0.1, 3.0)
    assert record(20, 0.1, is_scheduled=True) == (False, 15, 10, 1)
    assert record(30, 0.2, is_scheduled=True) == (False, 15, 30, 0)
    assert state.best_scheduled == BestScores(0.2, 3.0)
    assert record(40, 0.4, is_scheduled=True) == (True, 40, 40, 0)
    assert state.best_scheduled is None
    record(45, 0.5, is_scheduled=False)
    state.forget_best()
    assert (state.best_scheduled, state.patience_from) == (None, 45)


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_an_equal_score_is_no_improvement_even_without_a_threshold(metric: str) -> None:
    settings = Settings(best_metric=metric, improvement_threshold=0.0, patience=3, warmup_steps=0)
    state = TrainingState(run_id="a")
    found = []
    for state.step in (1, 2, 3, 4):
        found.append(record_evaluation(state, 2.0, 0.25, settings, is_scheduled=True))
        state.last_eval = EvalScores(state.step, 2.0, 0.25, 1.0)
    assert found == [True, False, False, False]
    assert patience_is_over(state, settings)
