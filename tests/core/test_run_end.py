"""The end of a run: its reason, its checkpoints and its last events."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import GptError, SaveError
from gpt_core.formats.checkpoint import Checkpoint, peek_checkpoint, read_checkpoint
from gpt_core.training import events as ev
from gpt_core.training import setup
from gpt_core.training.metrics_log import read_metrics
from gpt_core.training.request import RunRequest
from gpt_core.training.saving import Saver
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import LATEST, events_with, losses, of_kind, open_run, tiny_settings, train

FINAL = "transformer.safetensors"


def test_the_run_ends_when_the_average_loss_of_an_epoch_is_below_epsilon(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, epsilon=3.0, eval_every_steps=0))
    end = of_kind(events, ev.RunFinished)[0]
    steps = of_kind(events, ev.RunStarted)[0].steps_per_epoch
    epochs = [np.mean(losses(events)[first : first + steps]) for first in range(0, end.step, steps)]
    assert end.reason == "epsilon"
    assert epochs[-1] < 3.0 <= min(epochs[:-1])


def test_transformer_is_the_best_model_and_not_the_last(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_epochs=3, improvement_threshold=0.2)
    train(settings)
    models = tmp_path / "models"
    best, final, last = (
        read_checkpoint(models / f"{name}.safetensors") for name in ("best_model", "transformer", "ckpt_latest")
    )
    assert final.state.step == best.state.step < last.state.step
    assert np.array_equal(final.parameters.flat, best.parameters.flat)
    assert not np.array_equal(final.parameters.flat, last.parameters.flat)


def test_transformer_is_the_best_model_of_a_run_that_was_resumed_into_another_folder(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_epochs=3, improvement_threshold=1.0)
    train(settings)
    other = tmp_path / "other"
    train(tiny_settings(tmp_path, max_epochs=4, improvement_threshold=1.0, models_dir=str(other)), tmp_path / LATEST)
    best, final = (read_checkpoint(path) for path in (tmp_path / "models/best_model.safetensors", other / FINAL))
    assert final.state.step == best.state.step
    assert np.array_equal(final.parameters.flat, best.parameters.flat)


def test_transformer_is_the_best_model_of_a_run_that_was_saved_beside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, max_epochs=3, improvement_threshold=1.0)
    save = CheckpointStore.save

    def full(self: CheckpointStore, kind: str, checkpoint: Checkpoint, **options: Any) -> Path:
        if kind == "latest" and self.folder == tmp_path / "models":
            raise SaveError("no space left")
        return save(self, kind, checkpoint, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", full)
        trainer = open_run(settings)
        (beside,) = {
            Path(event.path) for event in events_with(trainer, 20, trainer.requests.stop)
            if isinstance(event, ev.CheckpointSaved) and event.kind == "latest"
        }  # fmt: skip
    assert beside.parent == tmp_path / f"gpt-tui-{trainer.state.run_id}"
    events = train(msgspec.structs.replace(settings, max_epochs=4, models_dir=str(beside.parent)), beside)
    best, final = (
        read_checkpoint(path) for path in (tmp_path / "models/best_model.safetensors", beside.parent / FINAL)
    )
    assert not of_kind(events, ev.SaveFailed)
    assert (final.run_id, final.step) == (best.run_id, best.step)


def test_a_run_that_is_resumed_in_another_folder_has_its_best_model_there(tmp_path: Path) -> None:
    changes = {"improvement_threshold": 1.0, "save_every_steps": 3}
    train(tiny_settings(tmp_path, max_epochs=3, **changes))
    for number, name in enumerate(("second", "third", "third")):
        last = tmp_path / LATEST if not number else tmp_path / ("second", "third")[number - 1] / LATEST.name
        settings = tiny_settings(tmp_path, max_epochs=4 + number, **changes, models_dir=str(tmp_path / name))
        assert not of_kind(train(settings, last), ev.SaveFailed)
        files = (tmp_path / "models/best_model.safetensors", tmp_path / name / "best_model.safetensors")
        best, *copies = (read_checkpoint(path) for path in (*files, tmp_path / name / FINAL))
        assert [(copy.run_id, copy.step) for copy in copies] == [(best.run_id, best.step)] * 2
        assert all(np.array_equal(copy.parameters.flat, best.parameters.flat) for copy in copies)


def test_a_best_model_that_is_saved_as_ckpt_latest_alone_is_saved_again_when_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, best_metric="loss", improvement_threshold=0.1)
    save = CheckpointStore.save

    def full(self: CheckpointStore, kind: str, checkpoint: Checkpoint, **options: Any) -> Path:
        if kind == "best" and checkpoint.step == 10:
            raise SaveError("no space left")
        return save(self, kind, checkpoint, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", full)
        trainer = open_run(settings)
        for event in trainer.events():
            if isinstance(event, ev.EvalCompleted) and event.step == 10:
                trainer.requests.stop()
    assert (trainer.state.best_step, read_checkpoint(tmp_path / LATEST).step) == (10, 10)
    assert read_checkpoint(tmp_path / "models/best_model.safetensors").step == 5
    rates = dict.fromkeys(("attn_lr", "mlp_lr", "norm_lr", "pos_lr", "unembed_lr"), 1e-09)  # nothing is learned
    events = train(msgspec.structs.replace(settings, max_steps=20, **rates), tmp_path / LATEST)
    assert not of_kind(events, ev.SaveFailed)
    assert [read_checkpoint(tmp_path / "models" / name).step for name in ("best_model.safetensors", FINAL)] == [10, 10]


def test_transformer_is_no_model_of_a_branch_that_was_left(tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, max_epochs=3, save_epoch_number=1))
    first = tmp_path / "models/epoch_001.safetensors"
    changes = {"max_epochs": 2, "attn_lr": 1e-9, "mlp_lr": 1e-9, "norm_lr": 1e-9, "pos_lr": 1e-9, "unembed_lr": 1e-9}
    # nothing is learned: the best evaluation is the first one, and best_model is of the other branch
    train(tiny_settings(tmp_path, **changes, improvement_threshold=0.1), first)
    assert read_checkpoint(tmp_path / "models/best_model.safetensors").step > read_checkpoint(first).step
    final = read_checkpoint(tmp_path / "models" / FINAL)
    assert np.array_equal(final.parameters.flat, read_checkpoint(first).parameters.flat)


def test_a_run_whose_best_model_is_gone_says_so_and_keeps_its_last_one(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_epochs=3, improvement_threshold=1.0)
    trainer = open_run(settings)
    events = events_with(trainer, 30, (tmp_path / "models/best_model.safetensors").unlink)
    (failed,) = of_kind(events, ev.SaveFailed)
    assert f"no checkpoint has the best weights of the run, of step {trainer.state.best_step}" in failed.error
    assert read_checkpoint(tmp_path / LATEST).state.finished == "max_epochs"


def test_the_last_step_is_known_after_a_change_of_the_batch_size_within_an_epoch(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_epochs=2))
    events_with(trainer, 5, trainer.requests.stop)
    events = train(tiny_settings(tmp_path, max_epochs=2, batch_size=6, micro_batch_size=3), tmp_path / LATEST)
    started, end = events[0], events[-1]
    assert isinstance(started, ev.RunStarted)
    assert isinstance(end, ev.RunFinished)
    assert (started.max_steps, end.reason) == (end.step, "max_epochs")
    assert [event.step for event in of_kind(events, ev.FullEvalCompleted)] in ([], [end.step])


def test_an_update_that_fails_midway_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=2, eval_every_steps=0))
    update_average = trainer.run.optimizer.update_average

    def fails_in_step_5(step: int) -> None:
        update_average(step)
        if step == 5:
            raise MemoryError

    monkeypatch.setattr(trainer.run.optimizer, "update_average", fails_in_step_5)
    with pytest.raises(MemoryError):
        list(trainer.events())
    assert peek_checkpoint(tmp_path / LATEST).step == 4


def test_a_run_that_ends_by_max_steps_is_evaluated_and_completed(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=3))
    saved = [(event.kind, event.step) for event in of_kind(events, ev.CheckpointSaved)]
    assert saved == [("latest", 3), ("best", 3), ("final", 3), ("latest", 3)]  # before and after the evaluation
    assert events[-1] == ev.RunFinished("max_steps", 3)
    (evaluation,) = of_kind(events, ev.EvalCompleted)
    for name in ("best_model", "ckpt_latest", "transformer"):
        scores = read_checkpoint(tmp_path / f"models/{name}.safetensors").state.scores
        assert scores is not None
        assert (scores.step, scores.loss) == (3, evaluation.loss)
    assert read_checkpoint(tmp_path / LATEST).state.finished == "max_steps"


@pytest.mark.parametrize("limits", [{"max_steps": 7}, {"max_epochs": 1}], ids=str)
def test_a_run_that_is_interrupted_before_transformer_is_saved_is_completed_by_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, object]
) -> None:
    def interrupted(self: Saver, reason: str) -> None:
        raise KeyboardInterrupt

    settings = tiny_settings(tmp_path, **limits)
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save_final", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    events = list(setup.open_run(RunRequest(settings, resume="newest")).events())
    assert not losses(events)
    assert {event.kind for event in of_kind(events, ev.CheckpointSaved)} == {"final", "latest"}
    finished = [read_checkpoint(tmp_path / path).state.finished for path in (LATEST, f"models/{FINAL}")]
    assert finished == [next(iter(limits))] * 2


def test_a_run_whose_reader_leaves_at_its_best_evaluation_saves_that_model(tmp_path: Path) -> None:
    with closing(open_run(tiny_settings(tmp_path)).events()) as events:
        next(event for event in events if isinstance(event, ev.EvalCompleted) and event.is_best)
    best, last = (read_checkpoint(tmp_path / path) for path in ("models/best_model.safetensors", LATEST))
    assert best.state == last.state


def test_the_save_before_the_last_evaluation_is_also_the_regular_one_of_its_step(tmp_path: Path) -> None:
    events = train(tiny_settings(tmp_path, max_steps=4, save_every_steps=2))
    assert [event.step for event in of_kind(events, ev.CheckpointSaved) if event.kind == "latest"] == [2, 4, 4]


def test_a_stopped_run_is_not_completed(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=5))
    events = events_with(trainer, 3, trainer.requests.stop)
    assert events[-1] == ev.RunFinished("stopped", 3)
    assert not (tmp_path / "models/transformer.safetensors").exists()
    assert read_checkpoint(tmp_path / LATEST).state.finished == ""


def test_a_run_ends_with_a_sample_but_never_with_a_second_one_of_its_step(tmp_path: Path) -> None:
    def steps_of_samples(folder: str, **changes: object) -> list[int]:
        (tmp_path / folder).mkdir()
        settings = tiny_settings(tmp_path / folder, max_steps=3, sample_tokens=4, **changes)
        return [event.step for event in of_kind(train(settings), ev.SampleWritten)]

    assert steps_of_samples("unscored", eval_every_steps=0) == [0, 3]
    assert steps_of_samples("scored", eval_every_steps=3) == [0, 3]
    assert steps_of_samples("part", eval_every_steps=3, eval_tokens=16) == [0, 3]


@pytest.mark.parametrize("error", [None, BrokenPipeError(), ZeroDivisionError()], ids=repr)
def test_the_log_of_a_run_whose_reader_leaves_ends_with_its_last_save(error: Exception | None, tmp_path: Path) -> None:
    def read_until_step_2(trainer: Trainer) -> None:
        with closing(trainer.events()) as events:
            for event in events:
                if isinstance(event, ev.StepCompleted) and event.step == 2:
                    if error is not None:
                        raise error
                    return

    trainer = open_run(tiny_settings(tmp_path))
    if error is None:
        read_until_step_2(trainer)
    else:
        with pytest.raises(type(error)):
            read_until_step_2(trainer)
    assert list(read_metrics(tmp_path / "models/metrics.jsonl"))[-2:] == [
        ev.CheckpointSaved("latest", str(tmp_path / LATEST), 2), ev.RunFinished("stopped", 2)
    ]  # fmt: skip


def test_the_log_of_a_run_that_is_closed_after_its_end_has_one_end(tmp_path: Path) -> None:
    with closing(open_run(tiny_settings(tmp_path, max_steps=2)).events()) as events:
        next(event for event in events if isinstance(event, ev.RunFinished))
    logged = list(read_metrics(tmp_path / "models/metrics.jsonl"))
    assert of_kind(logged, ev.RunFinished) == [ev.RunFinished("max_steps", 2)]


def test_the_log_of_a_run_that_failed_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_run(tiny_settings(tmp_path))

    def fail() -> None:
        raise GptError("the step failed")

    monkeypatch.setattr(trainer, "_take_step", fail)
    with pytest.raises(GptError, match="the step failed"):
        list(trainer.events())
    assert not of_kind(list(read_metrics(tmp_path / "models/metrics.jsonl")), ev.RunFinished)
