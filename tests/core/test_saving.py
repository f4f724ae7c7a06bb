"""Saving beside the training: whose weights a checkpoint holds, when it is seen of, and what has to wait for it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_core import files
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.errors import SaveError
from gpt_core.formats.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from gpt_core.formats.training_state import BestScores
from gpt_core.training import early_stopping, saving
from gpt_core.training import events as ev
from gpt_core.training.saving import Saver
from gpt_core.training.trainer import Trainer
from tests.core.training_samples import LATEST, events_with, of_kind, open_run, tiny_settings, train, whole_state

PATIENCE_S = 120.0


class SlowDisk:
    """Block every write or sync of a checkpoint until `unpause` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.unpause = threading.Event()
        self.waiting = threading.Event()
        self.at_once = self.max_at_once = 0
        real: Callable[..., None] = getattr(files, name)

        def blocked(*arguments: object) -> None:
            if threading.current_thread().name == "saving":
                self.at_once += 1
                self.max_at_once = max(self.max_at_once, self.at_once)
                self.waiting.set()
                assert self.unpause.wait(PATIENCE_S)
                self.at_once -= 1
            real(*arguments)

        monkeypatch.setattr(files, name, blocked)


def test_training_continues_during_a_save_which_is_reported_once_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch, "_sync_file")
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=4, max_steps=10, eval_every_steps=0))
    seen = []
    for event in trainer.events():
        seen.append((type(event), event.step))
        if event.step == 7 and not disk.unpause.is_set():
            assert disk.waiting.wait(PATIENCE_S)
            assert trainer.saving
            assert not (tmp_path / LATEST).exists()
            disk.unpause.set()
    first_saved = seen.index((ev.CheckpointSaved, 4))
    assert seen.index((ev.StepCompleted, 7)) < first_saved
    assert (ev.CheckpointSaved, 8) in seen
    assert seen.index((ev.CheckpointSaved, 10)) < seen.index((ev.EvalProgressed, 10))  # of the complete eval text
    assert seen[-1] == (ev.RunFinished, 10)


def test_weights_do_not_change_before_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, "write_all")
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=3, max_steps=8, eval_every_steps=0))
    events = trainer.events()
    at_step_3 = b""
    for event in events:
        if isinstance(event, ev.StepCompleted) and event.step == 3:
            at_step_3 = trainer.parameters.flat.tobytes()
            break
    took_step = threading.Thread(target=lambda: next(event for event in events if isinstance(event, ev.StepCompleted)))
    took_step.start()
    assert disk.waiting.wait(PATIENCE_S)
    took_step.join(0.5)
    assert took_step.is_alive()  # its gradients are there by now, and it waits to apply them
    assert trainer.parameters.flat.tobytes() == at_step_3
    disk.unpause.set()
    took_step.join(PATIENCE_S)
    assert trainer.step == 4
    assert next(event for event in events if isinstance(event, ev.CheckpointSaved)).step == 3
    saved = read_checkpoint(tmp_path / LATEST)
    assert (saved.state.step, saved.parameters.flat.tobytes()) == (3, at_step_3)
    events.close()


@pytest.mark.slow
def test_every_checkpoint_holds_its_own_step_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.write_all
    monkeypatch.setattr(files, "write_all", lambda *arguments: (time.sleep(0.001), real(*arguments))[1])
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=2, max_steps=13))
    states = {}
    for event in trainer.events():
        if isinstance(event, ev.StepCompleted):
            states[event.step] = (event.tokens, *whole_state(trainer))
        elif isinstance(event, ev.CheckpointSaved):
            found = read_checkpoint(event.path)
            assert found.optimizer_state is not None
            weights = [part.flat.tobytes() for part in (found.parameters, *found.optimizer_state.values())]
            assert (found.state.step, (found.state.tokens, *weights)) == (event.step, states[event.step])


@pytest.mark.slow
def test_saves_of_one_run_never_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, inside, maximum = CheckpointStore.save, [0], [0]

    def counted(self: CheckpointStore, *arguments: object, **named: object) -> Path:
        inside[0] += 1
        maximum[0] = max(maximum[0], inside[0])
        time.sleep(0.005)
        try:
            return real(self, *arguments, **named)  # type: ignore[arg-type]
        finally:
            inside[0] -= 1

    monkeypatch.setattr(CheckpointStore, "save", counted)
    events = train(tiny_settings(tmp_path, save_every_steps=1, eval_every_steps=2, save_epoch_number=1, max_epochs=2))
    steps = len(of_kind(events, ev.StepCompleted))
    saved = of_kind(events, ev.CheckpointSaved)
    assert maximum[0] == 1
    assert [event.step for event in saved if event.kind == "latest"][:steps] == list(range(1, steps + 1))
    assert {"best", "epoch", "final"} <= {event.kind for event in saved}


def test_a_pause_begins_when_everything_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, "_sync_file")
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=2, max_steps=4, eval_every_steps=0))
    seen = []
    for event in trainer.events():
        if isinstance(event, ev.BaselinesMeasured):
            continue
        seen.append((type(event), event.step))
        if seen[-1] == (ev.StepCompleted, 2):
            trainer.requests.pause()
            threading.Timer(0.1, disk.unpause.set).start()
        elif seen[-1] == (ev.RunPaused, 2):
            assert not trainer.saving
            trainer.requests.unpause()
    saved = seen.index((ev.CheckpointSaved, 2))
    assert seen[saved - 1 : saved + 3] == [
        (ev.StepCompleted, 2), (ev.CheckpointSaved, 2), (ev.RunPaused, 2), (ev.RunContinued, 2),
    ]  # fmt: skip


def test_a_run_stopped_without_saving_completes_the_current_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch, "_sync_file")
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=2, eval_every_steps=0))
    seen = []
    for event in trainer.events():
        seen.append((type(event), event.step))
        if seen[-1] == (ev.StepCompleted, 3):
            trainer.requests.stop(save=False)
            threading.Timer(0.1, disk.unpause.set).start()
    assert seen[-2:] == [(ev.CheckpointSaved, 2), (ev.RunFinished, 3)]
    assert verify_checkpoint(tmp_path / LATEST).step == 2


def test_after_a_failed_save_of_the_best_model_the_next_one_that_is_better_than_the_file_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed = CheckpointStore.save, []

    def full_disk_at_step_10(self: CheckpointStore, kind: str, checkpoint: Checkpoint, **more: object) -> Path:
        if kind == "best" and checkpoint.step == 10:
            failed.append(checkpoint.state.best)
            raise SaveError("no space left")
        return write(self, kind, checkpoint, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointStore, "save", full_disk_at_step_10)
    trainer = open_run(tiny_settings(tmp_path, max_steps=15, best_metric="loss"))
    record = early_stopping.is_improvement

    def never_after_step_10(new: BestScores, best: BestScores, settings: Settings) -> bool:
        return record(new, best, settings) and best not in failed

    monkeypatch.setattr(early_stopping, "is_improvement", never_after_step_10)
    events = list(trainer.events())
    assert [event.step for event in of_kind(events, ev.EvalCompleted) if event.is_best] == [5, 10, 15]
    assert trainer.state.evaluations_without_improvement == 1  # early stopping compares with step 10
    best, final = (read_checkpoint(tmp_path / f"models/{name}.safetensors") for name in ("best_model", "transformer"))
    assert best.step == final.step == 15


def test_an_unexpected_error_while_saving_ends_the_run_and_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=2, max_steps=9))

    def broken(*_: object, **__: object) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr(trainer.run.store, "save", broken)
    with pytest.raises(ZeroDivisionError):
        list(trainer.events())
    assert trainer.step < 9
    second = open_run(tiny_settings(tmp_path, max_steps=1))  # the folder is free again
    list(second.events())


def test_a_checkpoint_is_saved_without_a_thread_if_none_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(saving.threading.Thread, "start", none_left)
    events = train(tiny_settings(tmp_path, save_every_steps=2, max_steps=5))
    assert [event.step for event in of_kind(events, ev.CheckpointSaved) if event.kind == "latest"] == [2, 4, 5, 5]
    assert verify_checkpoint(tmp_path / LATEST).step == 5


def test_events_do_not_depend_on_the_duration_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(folder: Path) -> tuple[list[object], Trainer]:
        folder.mkdir()
        trainer = open_run(tiny_settings(folder, save_every_steps=3, max_steps=11))
        # checkpoints are saved, and baselines measured, beside the steps
        passing = ev.EvalProgressed | ev.CheckpointSaved | ev.BaselinesMeasured
        events = [event for event in trainer.events() if not isinstance(event, passing)]
        return [getattr(event, "loss", event.step) for event in events], trainer

    quick, trained_quickly = seen(tmp_path / "quick")
    real = files._sync_file
    monkeypatch.setattr(files, "_sync_file", lambda descriptor: (time.sleep(0.02), real(descriptor))[1])
    slow, trained_slowly = seen(tmp_path / "slow")
    assert quick == slow
    assert np.array_equal(trained_quickly.parameters.flat, trained_slowly.parameters.flat)


def test_a_last_save_tries_the_next_folder_where_one_cannot_be_looked_at(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path))
    too_long = tmp_path / ("x" * 300)  # an error of `stat`, as a mount that has failed gives
    (saved,) = Saver(trainer.run).save_elsewhere([too_long, tmp_path / "second"])
    assert saved.path == str(tmp_path / "second/ckpt_latest.safetensors")
    trainer.run.store.close()


def test_a_run_whose_only_disk_is_full_ends_and_says_that_it_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SaveError("no space left")

    def no_folder() -> str:
        raise FileNotFoundError("No usable temporary directory found")  # as where no file can be written to one

    trainer = open_run(tiny_settings(tmp_path))
    monkeypatch.setattr("gpt_core.checkpoints.store.write_checkpoint", full)
    monkeypatch.setattr(tempfile, "gettempdir", no_folder)
    events = events_with(trainer, 4, trainer.requests.stop)
    assert of_kind(events, ev.SaveFailed)
    assert events[-1] == ev.RunFinished("stopped", 4, saved=False)
    assert not list(tmp_path.glob("gpt-tui-*"))
