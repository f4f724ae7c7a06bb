"""Run state as a pure function of events: curve, smoothing, best score, log, bounds."""

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core.config.settings import Settings
from gpt_core.formats.training_state import TrainingState
from gpt_core.training import events as ev
from gpt_tui.session.curve import HIGH, LOW, RECENT, SMOOTHED, STEP, THINNED, Curve, places
from gpt_tui.session.event_buffer import MAX_PENDING, EventBuffer
from gpt_tui.session.log_replay import with_earlier_part
from gpt_tui.session.outcome_text import ENDINGS, ending
from gpt_tui.session.run_events import MAX_EVALUATIONS, MAX_LOG_LINES, advance, advance_all
from gpt_tui.session.run_state import Limits, RunState, Score
from gpt_tui.session.run_text import no_step_left
from tests.tui.samples import LIMITS, scored, started, step, trained


@pytest.mark.slow
def test_a_batch_of_events_equals_single_events():
    losses = np.random.default_rng(0).normal(3, 1, 7000)
    events = [started(), *(step(n + 1, float(loss)) for n, loss in enumerate(losses))]
    events.insert(3000, scored(2999, 0.3))
    at_once = advance_all(RunState(limits=LIMITS), events)
    one_by_one = RunState(limits=LIMITS)
    for event in events:
        one_by_one = advance(one_by_one, event)
    np.testing.assert_array_equal(at_once.curve.thinned, one_by_one.curve.thinned)
    np.testing.assert_array_equal(at_once.curve.recent, one_by_one.curve.recent)
    assert (at_once.curve.bucket, at_once.curve.fill) == (one_by_one.curve.bucket, one_by_one.curve.fill)
    assert at_once.curve.smoothed == one_by_one.curve.smoothed
    assert at_once.log == one_by_one.log


def test_a_curve_is_bounded_with_its_end_unthinned():
    history = RunState()
    for first in range(1, 100_001, 500):
        history = advance_all(history, [step(n) for n in range(first, first + 500)])
    curve = history.curve
    assert len(curve.thinned) <= THINNED
    assert len(curve.recent) == RECENT
    assert curve.recent[:, STEP].tolist() == list(range(100_001 - RECENT, 100_001))


@pytest.mark.parametrize("batch", [1, 7, 50, 5000])
def test_thinning_loses_no_extreme_and_keeps_steps_in_order(batch):
    losses = np.random.default_rng(1).normal(3, 1, 9001)
    losses[1234], losses[4321] = 50.0, -50.0
    curve = Curve()
    for first in range(0, len(losses), batch):
        part = losses[first : first + batch]
        steps = [step(first + n + 1) for n in range(len(part))]
        curve = curve.with_values(places(steps), [float(loss) for loss in part])
    rows = curve.rows()
    assert (np.diff(rows[:, STEP]) > 0).all()
    assert rows[-1, STEP] == 9001
    assert rows[:, HIGH].max() == 50.0
    assert rows[:, LOW].min() == -50.0
    full = curve.thinned[:-1]
    assert (np.diff(full[:, STEP]) == curve.bucket).all()
    assert curve.thinned[-1, STEP] - full[-1, STEP] == curve.fill


def test_extending_a_curve_does_not_modify_it():
    before = trained(300)
    rows = before.curve.rows().copy()
    advance_all(before, [step(n, 9.0) for n in range(301, 3000)])
    np.testing.assert_array_equal(before.curve.rows(), rows)


def test_smoothing_follows_a_level_and_starts_without_bias():
    assert trained(1, lambda _: 7.5).curve.smoothed == 7.5
    level = trained(500, lambda n: 7.5 if n < 10 else 2.0).curve
    assert level.smoothed == pytest.approx(2.0, abs=0.01)
    noise = np.random.default_rng(2).normal(0, 0.5, 2001)
    smoothed = trained(2000, lambda n: 3.0 + float(noise[n])).curve.rows()[200:, SMOOTHED]
    assert np.abs(smoothed - 3.0).max() < 0.3


def test_a_non_finite_loss_does_not_change_the_smoothed_loss():
    history = advance(trained(50, lambda _: 2.0), step(51, math.nan))
    assert history.curve.smoothed == pytest.approx(2.0)
    assert history.last is not None
    assert math.isnan(history.last.loss)


def test_the_best_score_is_the_one_that_the_trainer_marks():
    history = advance(trained(100), scored(100, 0.30, 3.2, is_best=True))
    assert history.best == Score(0.30, 100, 0, 3.2, 100)
    history = advance(history, scored(200, 0.304, 3.3, is_best=False, without_improvement=1))
    assert history.best == Score(0.30, 100, 1, 3.2, 100)
    assert "best" not in history.log[-1].text
    history = advance(history, scored(250, 0.21, 3.1, is_best=True))  # by its loss
    assert history.best == Score(0.21, 250, 0, 3.1, 250)


def test_early_stopping_is_shown_by_the_scheduled_evaluations_alone():
    history = advance(trained(100), scored(100, 0.30, 3.2, is_best=True))
    history = advance(history, scored(200, 0.30, 3.2, is_best=False, without_improvement=1))
    requested = msgspec.structs.replace(scored(250, 0.4, 3.0, is_best=True, without_improvement=1), is_scheduled=False)
    history = advance(history, requested)
    assert history.best == Score(0.4, 250, 1, 3.0, 100)
    history = advance(history, scored(300, 0.35, 3.1, is_best=False))  # the best scheduled one
    assert history.best == Score(0.4, 250, 0, 3.0, 300)


def test_the_log_names_the_metric_of_the_best_score():
    for metric in ("accuracy", "loss"):
        history = advance(RunState(limits=LIMITS), started(best_metric=metric))
        assert advance(history, scored(100, 0.3, is_best=True)).log[-1].text.endswith(f"★ best {metric}")


def test_in_the_log_of_an_earlier_version_the_best_accuracy_counts():
    history = trained(100)
    for number, accuracy in ((100, 0.3), (200, 0.2), (300, 0.31), (400, 0.31)):
        history = advance(history, scored(number, accuracy))
    assert (history.best.step, history.best.accuracy) == (300, 0.31)


def test_another_eval_text_resets_the_best_score_and_is_logged():
    scored_before = ev.FullEvalCompleted(600, 3.0, 20.1, 0.4, 1.5, 90)
    before = advance(RunState(limits=LIMITS, best=Score(0.4, 500, 2)), scored_before)
    history = advance(before, started(step=600, best_restarted="another eval text: a new best score"))
    assert history.best == Score(patience_from=600)
    assert history.full_evaluation is None
    assert advance(before, started(step=600)).full_evaluation is scored_before
    assert history.log[-1].text == "another eval text: a new best score"


def test_the_log_of_a_run_that_ends_without_a_step_names_the_limit_to_raise():
    for reason, name in (("max_steps", "max_steps"), ("max_epochs", "max_epochs"), ("overfit_done", "overfit_steps")):
        history = advance_all(RunState(), [started(step=120), ev.RunFinished(reason, 120)])
        assert f"resume with a larger {name}" in history.log[-1].text
        history = advance_all(RunState(), [started(step=120), step(121), ev.RunFinished(reason, 121)])
        assert "resume" not in history.log[-1].text


def test_a_resumed_run_keeps_its_best_score():
    buffer = EventBuffer(RunState(limits=LIMITS), lambda: 0.0)
    buffer.begin(RunState(limits=LIMITS, best=Score(0.4, 500, 2)))
    for event in (started(step=600), step(601), scored(601, 0.35, is_best=False, without_improvement=2)):
        buffer.put(event)
    history = buffer.drain().run
    assert history.best == Score(0.4, 500, 2)
    assert "best" not in history.log[-1].text


@pytest.mark.parametrize("logged", [range(1, 101), range(40, 60), range(0)])
def test_a_resumed_run_keeps_its_train_loss_whatever_its_log_holds(logged: range, tmp_path: Path):
    steps = [step(number, 5 - number / 50) for number in range(1, 121)]
    complete = advance_all(RunState(), steps)
    averaged = advance_all(RunState(), steps[:100]).curve
    state = TrainingState(run_id="r", step=100, train_loss=averaged.smoothed, averaged_steps=averaged.count)
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(b"".join(ev.to_json(steps[number - 1]) + b"\n" for number in logged))
    resumed = advance_all(with_earlier_part(RunState(), log, state), steps[100:])
    assert resumed.curve.smoothed == complete.curve.smoothed


def test_state_has_pause_evaluation_skips_and_saves():
    history = trained(10)
    history = advance(history, ev.RunPaused(10))
    assert history.paused
    history = advance(history, ev.RunContinued(10))
    assert not history.paused
    history = advance(history, ev.EvalProgressed(10, 50, 200))
    assert history.evaluating == 0.25
    history = advance(history, scored(10, 0.1))
    assert history.evaluating is None
    history = advance(history, ev.UpdateSkipped(11, 1, "the loss was nan"))
    assert history.skipped == 1
    history = advance(history, ev.SaveFailed("latest", "models/ckpt_latest.safetensors", 11, "no space left"), at_s=5.0)
    assert history.save_error == "no space left"
    history = advance(history, ev.CheckpointSaved("latest", "models/ckpt_latest.safetensors", 12), at_s=9.0)
    assert (history.save_error, history.saved and history.saved.at_s) == ("", 9.0)
    history = advance(history, ev.RunFinished("max_steps", 12))
    assert history.finished is not None
    assert history.log[-1].text == "step 12: all steps done"


def test_single_steps_while_paused_add_no_log_lines():
    history = advance(trained(10), ev.RunPaused(10))
    for number in (11, 12, 13):
        history = advance(advance(history, step(number)), ev.RunPaused(number))
    history = advance(history, ev.RunContinued(13))
    assert [line.text for line in history.log[-2:]] == ["paused at step 10", "continued"]
    assert history.step == 13


def test_remaining_time_comes_from_the_pace_of_the_last_steps():
    assert RunState().remaining_s is None
    assert trained(1).remaining_s is None
    assert trained(1000).remaining_s == pytest.approx((2000 - 1000) * 0.1, rel=0.01)


def test_the_remaining_time_of_a_run_with_a_time_budget_is_that_of_the_budget():
    begun = replace(trained(300), started=started(minutes=1.0))  # 0.1 s per step
    assert begun.remaining_s == pytest.approx(60 - 30)
    slower = advance(begun, ev.PlanMade(300, 0.5, 900, 30.0, 0.05, 60.0))
    assert slower.remaining_s == pytest.approx(60 - 30)  # not 60 s at the pace of the last steps
    by_steps = advance(begun, ev.PlanMade(300, 0.5, 400, 30.0, 0.05, 60.0))
    assert by_steps.remaining_s == pytest.approx(100 * 0.1, rel=0.01)


def test_epoch_fraction_is_1_at_the_end_of_an_epoch():
    assert trained(0).epoch_fraction == 0.0
    assert trained(50).epoch_fraction == 0.5
    assert trained(100).epoch_fraction == 1.0


def test_evaluations_and_log_lines_are_bounded():
    history = trained(1)
    for number in range(2000):
        history = advance(history, scored(number, 0.3))
    assert len(history.evaluations) <= MAX_EVALUATIONS
    assert history.evaluations[-1].step == 1999
    assert history.evaluations[0].step == 0
    assert len(history.log) == MAX_LOG_LINES
    assert history.logged == 2001


def test_each_event_is_applied_once_even_without_a_drain():
    buffer = EventBuffer(RunState(), lambda: 0.0)
    buffer.put(started())
    total = MAX_PENDING * 2 + 17
    for number in range(1, total + 1):
        buffer.put(step(number))
        assert len(buffer._pending) < MAX_PENDING
    drained = buffer.drain()
    assert drained.run.curve.count == total
    assert [type(event) for event in drained.notable] == [ev.RunStarted]
    again = buffer.drain()
    assert not again.changed
    assert again.run is drained.run


def test_a_diverged_run_names_the_checkpoint_to_resume():
    diverged = ev.RunFinished("diverged", 12, "models/ckpt_latest.safetensors", 6)
    history = advance_all(RunState(), [started(), diverged])
    assert "ckpt_latest.safetensors (step 6)" in history.log[-1].text
    assert history.log[-1].tone == "bad"
    assert "no checkpoint was saved" in advance_all(RunState(), [ev.RunFinished("diverged", 5)]).log[-1].text


def test_a_stopped_run_is_reported_as_saved_only_if_it_is():
    assert ending(ev.RunFinished("stopped", 5)) == ENDINGS["stopped"] == "stopped and saved"
    assert ending(ev.RunFinished("stopped", 5, saved=False)) == "stopped without saving"


def test_warnings_of_a_start_are_in_the_log():
    event = started(warnings=("skipped: models/ckpt_latest.safetensors is damaged: cut",))
    history = advance_all(RunState(), [event])
    assert [(line.tone, line.text) for line in history.log[:-1]] == [("bad", event.warnings[0])]
    assert history.log[-1].tone == "good"


def test_each_plan_of_a_time_budget_replaces_the_last_step():
    history = advance(RunState(limits=LIMITS), started(max_steps=0, minutes=5.0))
    unknown = advance(history, ev.PlanMade(0, 0.0, 10**9, 0.0, 0.0, 300.0))
    assert (history.last_step, unknown.last_step) == (0, 0)
    planned = advance(unknown, ev.PlanMade(8, 0.1, 80, 30.0, 3.75, 300.0))
    assert planned.last_step == 80
    assert planned.log == unknown.log


def test_progress_is_the_share_of_the_steps_without_a_time_budget():
    assert RunState().progress is None
    assert advance(RunState(), started(max_steps=0)).progress is None
    assert [trained(steps).progress for steps in (0, 50, 1000, 2000)] == [0.0, 0.025, 0.5, 1.0]


def test_progress_of_a_resumed_time_budget_is_the_share_of_the_training_time_of_all_sessions():
    start = started(step=600, elapsed_s=60.0, minutes=2.0, max_steps=600)
    resumed = advance_all(RunState(), [start, ev.PlanMade(600, 0.5, 1300, 60.0, 0.1, 120.0)])
    assert resumed.progress == 0.5
    later = advance_all(resumed, [step(900), ev.PlanMade(900, 0.75, 1201, 90.0, 0.1, 120.0)])
    assert (later.last_step, later.progress, later.has_used_its_time) == (1201, 0.75, False)
    ended = advance_all(later, [step(1200), ev.PlanMade(1200, 1.0, 1200, 120.0, 0.1, 120.0)])
    assert (ended.progress, ended.has_used_its_time) == (1.0, True)
    assert advance(ended, ev.RunFinished("deadline", 1200)).progress == 1.0


def test_a_used_time_budget_without_a_step_names_the_minutes_that_the_run_has_taken():
    start = started(step=600, elapsed_s=36.4, minutes=0.4, max_steps=600)
    ended = advance_all(RunState(), [start, ev.RunFinished("deadline", 600)])
    assert no_step_left(ended) == "no step left to train; to train longer, resume with more than 0.7 minutes"


def test_progress_is_the_share_of_the_steps_where_they_end_before_the_time_budget():
    start = started(kind="overfit-tiny", step=200, elapsed_s=20.0, minutes=30.0, max_steps=2500)
    resumed = advance_all(RunState(), [start, ev.PlanMade(200, 0.08, 2500, 20.0, 0.1, 1800.0), step(250)])
    assert resumed.progress == 0.1
    assert advance(resumed, step(2500)).progress == 1.0


def test_the_reason_for_the_model_of_a_time_budget_is_logged():
    reason = "1.2M parameters, because 5 minutes are enough for it"
    assert reason in [line.text for line in advance(RunState(), started(model_reason=reason)).log]


@pytest.mark.parametrize("minutes", [0.0, 5.0])
def test_epochs_limit_a_run_with_or_without_a_time_budget(minutes: float):
    assert Limits.of(Settings(minutes=minutes, max_epochs=7)).max_epochs == 7


def test_the_epochs_of_a_race_which_limit_no_run_are_no_limit():
    limits = [Limits.of(Settings(max_epochs=epochs)).max_epochs for epochs in (999_999, 1_000_000, 1 << 50)]
    assert limits == [999_999, 0, 0]
