"""Updates that are skipped, and losses far above that of guessing."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint, write_checkpoint
from gpt_core.model.gpt import GPT
from gpt_core.training import events as ev
from gpt_core.training.last_save import LastSave
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import (
    LATEST,
    events_with,
    in_one_go,
    losses,
    of_kind,
    open_run,
    tiny_settings,
    train,
)


def test_a_step_that_is_not_finite_changes_no_weight_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=4))
    forward_backward = GPT.loss_and_gradients
    before: list[bytes] = []

    def third_is_not_finite(self: GPT, *arguments: object) -> tuple[float, int]:
        loss, targets = forward_backward(self, *arguments)  # type: ignore[arg-type]
        if trainer.step == 2:
            before.append(self.parameters.flat.tobytes())
            return math.nan, targets
        return loss, targets

    monkeypatch.setattr(GPT, "loss_and_gradients", third_is_not_finite)
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.UpdateSkipped):
            assert trainer.parameters.flat.tobytes() == before[0]
    skipped = of_kind(events, ev.UpdateSkipped)
    assert [(event.step, event.in_a_row) for event in skipped] == [(3, 1)]
    assert len(losses(events)) == 3
    assert trainer.state.skipped_in_a_row == 0


def test_five_consecutive_steps_that_are_not_finite_end_the_run_with_finite_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GPT, "loss_and_gradients", lambda *_: (math.inf, 1))
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=1, eval_every_steps=0))
    before = trainer.parameters.flat.copy()
    events = list(trainer.events())
    assert events[-1] == ev.RunFinished("diverged", 5)  # there is no checkpoint to name
    assert not of_kind(events, ev.CheckpointSaved)
    assert np.array_equal(trainer.parameters.flat, before)


def from_step_on(first: int, trainer: Trainer) -> Callable[..., tuple[float, int]]:
    """Replace forward and backward by passes whose losses are not finite from step `first` on."""
    forward_backward = GPT.loss_and_gradients

    def pass_or_fail(self: GPT, *arguments: object) -> tuple[float, int]:
        loss, targets = forward_backward(self, *arguments)  # type: ignore[arg-type]
        return (math.nan if trainer.step + 1 >= first else loss), targets

    return pass_or_fail


def test_a_run_that_diverges_keeps_the_checkpoint_from_before_its_first_skipped_update_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(8, trainer))
    events = list(trainer.events())
    assert [event.step for event in of_kind(events, ev.UpdateSkipped)] == [8, 9, 10, 11, 12]
    assert [event.step for event in of_kind(events, ev.CheckpointSaved)] == [3, 6]  # not 9, not 12
    assert events[-1] == ev.RunFinished("diverged", 12, str(tmp_path / LATEST), 6)
    assert peek_checkpoint(tmp_path / LATEST).step == 6


def test_no_sample_is_written_where_the_logits_are_not_finite(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=20, sample_tokens=4))
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.StepCompleted) and event.step == 3:
            trainer.parameters.flat[:] = np.nan
    assert events[-1].reason == "diverged"  # type: ignore[union-attr]
    assert [event.step for event in of_kind(events, ev.SampleWritten)] == [0]


def test_a_run_that_diverges_before_it_saved_names_the_checkpoint_that_it_was_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_one_go(tmp_path / "run", 4)
    latest = tmp_path / "run" / LATEST
    trainer = open_run(tiny_settings(tmp_path / "run"), resume=latest)
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(7, trainer))
    assert list(trainer.events())[-1] == ev.RunFinished("diverged", 11, str(latest), 4)


def test_while_updates_are_skipped_only_requested_saves_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=1, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(3, trainer))
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, ev.UpdateSkipped) and event.in_a_row == 2:
            trainer.requests.save()
    assert [event.step for event in of_kind(events, ev.CheckpointSaved)] == [1, 2, 4]


@pytest.mark.parametrize("end", ["closed", "error", "stop"])
def test_while_updates_are_skipped_only_a_requested_stop_replaces_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(8, trainer))
    with contextlib.suppress(ZeroDivisionError), closing(trainer.events()) as events:
        for event in events:
            if not isinstance(event, ev.UpdateSkipped) or event.in_a_row < 2:
                continue
            if end == "closed":
                break
            if end == "stop":
                trainer.requests.stop()
            else:
                monkeypatch.setattr(GPT, "loss_and_gradients", lambda *_: 1 / 0)
    assert peek_checkpoint(tmp_path / LATEST).step == (9 if end == "stop" else 6)
    log = list(read_metrics(tmp_path / "models/metrics.jsonl"))
    assert log[-1] == ev.RunFinished("stopped", 9, saved=end == "stop") or end == "error"


@pytest.mark.parametrize("end", ["stop", "closed", "max_steps"])
@pytest.mark.parametrize("saves", [True, False])
def test_a_run_that_ends_with_weights_that_are_not_finite_keeps_its_checkpoint_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, saves: bool
) -> None:
    monkeypatch.setattr(LastSave, "_wait_for_answer", lambda _: pytest.fail("the run asks what to do"))
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3 * saves, max_steps=8 if end == "max_steps" else 20))
    trainer.requests.can_ask = True
    events = []
    with closing(trainer.events()) as run:
        for event in run:
            events.append(event)
            if isinstance(event, ev.StepCompleted) and event.step == 7:
                trainer.parameters.flat[7] = math.nan
            if isinstance(event, ev.UpdateSkipped) and end == "stop":
                trainer.requests.stop()
            if isinstance(event, ev.UpdateSkipped) and end == "closed":
                break
    good = (str(tmp_path / LATEST), 6) if saves else ("", 0)
    finished = list(read_metrics(tmp_path / "models/metrics.jsonl"))[-1]
    assert finished == ev.RunFinished("diverged", 8, *good)
    assert not of_kind(events, ev.SaveFailed)
    assert (peek_checkpoint(tmp_path / LATEST).step == 6) if saves else not (tmp_path / LATEST).exists()


def test_an_error_while_updates_are_skipped_saves_a_run_without_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", from_step_on(3, trainer))
    with closing(trainer.events()) as events:
        next(event for event in events if isinstance(event, ev.UpdateSkipped))
    assert peek_checkpoint(tmp_path / LATEST).step == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
@pytest.mark.parametrize("local", [False, True])
def test_a_run_that_diverges_has_no_warnings_of_numpy(tmp_path: Path, value: float, local: bool) -> None:
    changes = {"sync_every_steps": 2, "outer_lr": 10.0} if local else {}
    settings = tiny_settings(tmp_path, max_steps=9, eval_every_steps=1, debug=True, debug_every=1, **changes)
    trainer = open_run(settings)
    events = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for event in trainer.events():
            events.append(event)
            if isinstance(event, ev.StepCompleted) and event.step == 4:
                trainer.parameters.flat[::2] = value
    assert of_kind(events, ev.UpdateSkipped)
    assert of_kind(events, ev.HealthMeasured)[-1].step > 4


def too_high_from(first: int, trainer: Trainer) -> Callable[..., tuple[float, int]]:
    """Replace forward and backward by passes whose losses are 40 times that of guessing from step `first` on.

    Checkpoints of earlier steps are complete by then, however slow the disk is.
    """
    forward_backward = GPT.loss_and_gradients

    def pass_too_high(self: GPT, *arguments: object) -> tuple[float, int]:
        loss, targets = forward_backward(self, *arguments)  # type: ignore[arg-type]
        if trainer.step + 1 < first:
            return loss, targets
        while trainer.saving:
            time.sleep(0.001)
        return targets * 40 * math.log(trainer.shape.vocab_size), targets

    return pass_too_high


def test_a_run_that_ends_far_above_guessing_diverged_and_names_the_checkpoint_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0, max_steps=30))
    monkeypatch.setattr(GPT, "loss_and_gradients", too_high_from(8, trainer))
    events = list(trainer.events())
    (found,) = of_kind(events, ev.LossDiverged)
    assert (found.good_checkpoint, found.good_step) == (str(tmp_path / LATEST), 6)
    end = events[-1]
    assert isinstance(end, ev.RunFinished)
    assert (end.reason, end.good_checkpoint, end.good_step) == ("diverged", str(tmp_path / LATEST), 6)
    assert end.loss == pytest.approx(40 * end.guessing_loss)
    assert peek_checkpoint(tmp_path / LATEST).step == 6


def test_a_diverged_run_without_a_good_checkpoint_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=0, eval_every_steps=0, max_steps=5))
    monkeypatch.setattr(GPT, "loss_and_gradients", too_high_from(1, trainer))
    end = list(trainer.events())[-1]
    assert isinstance(end, ev.RunFinished)
    assert (end.reason, end.good_checkpoint) == ("diverged", "")
    assert peek_checkpoint(tmp_path / LATEST).step == 5


def test_the_checkpoint_of_an_epoch_that_ends_while_a_run_diverges_is_not_the_newest_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0, max_epochs=3, save_epoch_number=1)
    trainer = open_run(settings)
    monkeypatch.setattr(GPT, "loss_and_gradients", too_high_from(8, trainer))
    end = list(trainer.events())[-1]
    assert isinstance(end, ev.RunFinished)
    assert (end.reason, end.good_step, trainer.state.epoch) == ("diverged", 6, 3)
    assert not list((tmp_path / "models").glob("epoch_*"))


def test_a_checkpoint_after_the_last_allowed_skipped_update_can_be_resumed(tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, max_steps=3))
    checkpoint = read_checkpoint(tmp_path / LATEST)
    checkpoint.state.skipped_in_a_row = 5
    write_checkpoint(tmp_path / LATEST, checkpoint)
    assert losses(train(tiny_settings(tmp_path, max_steps=6), tmp_path / LATEST))


@pytest.mark.parametrize("closes", [False, True])
def test_a_run_that_is_stopped_while_it_diverges_keeps_the_good_checkpoint_that_it_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", too_high_from(8, trainer))
    with closing(trainer.events()) as events:
        found = next(event for event in events if isinstance(event, ev.LossDiverged))
        if not closes:
            trainer.requests.stop()
            list(events)
    assert (found.good_checkpoint, found.good_step) == (str(tmp_path / LATEST), 6)
    assert peek_checkpoint(tmp_path / LATEST).step == 6
    end = list(read_metrics(tmp_path / "models/metrics.jsonl"))[-1]
    assert isinstance(end, ev.RunFinished)
    assert (end.reason, end.good_checkpoint, end.good_step) == ("diverged", str(tmp_path / LATEST), 6)


def test_a_spike_of_the_loss_is_no_reason_to_discard_the_state_of_a_stopped_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, eval_every_steps=0))
    monkeypatch.setattr(GPT, "loss_and_gradients", too_high_from(20, trainer))
    assert events_with(trainer, 22, trainer.requests.stop)[-1] == ev.RunFinished("stopped", 22)
    assert peek_checkpoint(tmp_path / LATEST).step == 22


@pytest.mark.parametrize("cut", [3, 12, 13])
def test_a_resumed_run_diverges_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    def end(folder: str, stop_at: int | None, resume: Path | None = None) -> ev.RunFinished:
        (tmp_path / folder).mkdir(exist_ok=True)
        trainer = open_run(tiny_settings(tmp_path / folder, max_steps=14), resume=resume)
        # the last losses are not too high, but the median of all is
        with monkeypatch.context() as patch:
            high, low = too_high_from(2, trainer), GPT.loss_and_gradients
            patch.setattr(GPT, "loss_and_gradients", lambda *given: (high if trainer.step < 12 else low)(*given))
            found = events_with(trainer, stop_at, trainer.requests.stop)[-1]
        assert isinstance(found, ev.RunFinished)
        return found

    assert end("whole", None).reason == "diverged"
    assert end("cut", cut).reason == "stopped"
    assert end("cut", None, tmp_path / "cut" / LATEST).reason == "diverged"
