"""No work is deleted before its replacement exists: another run's files stay as they are, to the byte, until the new
run's first save; and a run whose folder goes is saved all the same."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import CorpusError, FolderInUseError, GptError
from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint
from gpt_core.model.gpt import GPT
from gpt_core.optim import Optimizer
from gpt_core.run_files import PREVIOUS_METRICS
from gpt_core.training import events as ev
from gpt_core.training import setup as run_module
from gpt_core.training import trainer as trainer_module
from gpt_core.training.metrics_log import read_metrics
from tests.core.checkpoint_samples import sample
from tests.core.training_samples import events_with, of_kind, open_run, tiny_settings, train

LATEST = "ckpt_latest.safetensors"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A run of 20 steps, with each kind of checkpoint."""
    train(tiny_settings(tmp_path, max_steps=20, save_epoch_number=1, batch_size=16))
    return tmp_path / "models"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, but the lock and the log of a run that did not save."""
    left_out = (".lock", PREVIOUS_METRICS)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in left_out}


def out_of_memory(*_: object, **__: object) -> Any:
    raise MemoryError


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [("train_file", "\n \n\n", {}), ("train_file", "x", {"eval_file": ""}), ("eval_file", "\n \n", {})],
    ids=["blank text", "short text", "blank eval text"],
)
def test_a_rejected_text_removes_no_checkpoint(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, changes: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where no eval text is found
    before = contents(models)
    settings = tiny_settings(tmp_path, **changes)
    Path(getattr(settings, name)).write_text(text)
    with pytest.raises(CorpusError):
        train(settings, overwrite=True)
    assert contents(models) == before


@pytest.mark.parametrize("place", ["weights", "gradients", "activations"])
def test_running_out_of_memory_removes_no_checkpoint(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = contents(models)
    owner, name = {
        "weights": (run_module, "initial_parameters"),
        "gradients": (trainer_module, "Parameters"),
        "activations": (GPT, "loss_and_gradients"),
    }[place]
    monkeypatch.setattr(owner, name, out_of_memory)
    with pytest.raises(MemoryError):
        train(tiny_settings(tmp_path), overwrite=True)
    assert contents(models) == before


def test_a_smaller_model_may_start_where_a_new_run_ran_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(GPT, "loss_and_gradients", out_of_memory)
        with pytest.raises(MemoryError):
            train(tiny_settings(tmp_path))
    assert isinstance(train(tiny_settings(tmp_path, layers=1, max_steps=2))[-1], ev.RunFinished)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interruption_while_the_text_is_read_removes_no_checkpoint(
    models: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    before = contents(models)
    (tmp_path / "train.en").unlink()
    settings = tiny_settings(tmp_path, vocab_size=290)

    def interrupted(_words: str, _share: float) -> None:
        raise error

    with pytest.raises(error):
        open_run(settings, overwrite=True, progress=interrupted)
    assert contents(models) == before


def stop_at(step: int, *, save: bool) -> Callable[[Any, list[ev.AnyEvent]], None]:
    """Run until a step, then stop."""

    def drive(trainer: Any, events: list[ev.AnyEvent]) -> None:
        if step == 0:
            trainer.requests.stop(save=save)
        for event in trainer.events():
            events.append(event)
            if event.step == step and isinstance(event, ev.StepCompleted):
                trainer.requests.stop(save=save)

    return drive


@pytest.mark.parametrize(("step", "save"), [(0, True), (0, False), (3, False)])
def test_a_new_run_that_ends_before_its_first_save_leaves_the_old_one(
    models: Path, tmp_path: Path, step: int, save: bool
) -> None:
    before = contents(models)
    events: list[ev.AnyEvent] = []
    stop_at(step, save=save)(open_run(tiny_settings(tmp_path), overwrite=True), events)
    assert not of_kind(events, ev.CheckpointSaved)
    assert events[-1] == ev.RunFinished("stopped", step, saved=False)
    assert contents(models) == before
    logged = [event.step for event in read_metrics(models / PREVIOUS_METRICS) if isinstance(event, ev.StepCompleted)]
    assert logged == list(range(1, step + 1))
    assert open_run(tiny_settings(tmp_path), resume=models / LATEST).step == 20


def test_a_new_run_that_diverges_before_its_first_save_leaves_the_old_one(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(models)
    monkeypatch.setattr(Optimizer, "gradient_norm", lambda *_: np.inf)
    events = train(tiny_settings(tmp_path, eval_every_steps=0), overwrite=True)
    assert of_kind(events, ev.RunFinished)[0] == ev.RunFinished("diverged", 5)
    assert contents(models) == before


def test_a_new_run_whose_saves_all_fail_leaves_the_old_one(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(models)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    trainer = open_run(tiny_settings(tmp_path, max_steps=7), overwrite=True)
    events = []
    with monkeypatch.context() as patch:
        for event in trainer.events():
            events.append(event)
            if isinstance(event, ev.RunStarted):
                patch.setattr("gpt_core.files.write_new", full)
    assert of_kind(events, ev.SaveFailed)
    assert not of_kind(events, ev.CheckpointSaved)
    assert contents(models) == before


def test_the_old_checkpoints_are_removed_at_the_first_save_of_the_new_run_and_not_before(
    models: Path, tmp_path: Path
) -> None:
    old = {path.name for path in models.glob("*.safetensors")}
    assert len(old) > 2
    trainer = open_run(tiny_settings(tmp_path, max_steps=6, eval_every_steps=0), overwrite=True)
    for event in trainer.events():
        if isinstance(event, ev.StepCompleted):
            assert {path.name for path in models.glob("*.safetensors")} == old
    new = {LATEST, "best_model.safetensors", "transformer.safetensors"}
    assert {path.name for path in models.iterdir()} == {".lock", "metrics.jsonl"} | new
    assert {peek_checkpoint(models / name).run_id for name in new} == {trainer.state.run_id}


@pytest.mark.parametrize(("step", "save"), [(0, True), (2, False)])
def test_a_run_resumed_from_an_earlier_checkpoint_keeps_its_later_ones_and_its_log_until_it_saves(
    models: Path, tmp_path: Path, step: int, save: bool
) -> None:
    epoch = models / "epoch_001.safetensors"
    first = peek_checkpoint(epoch).step
    assert 0 < first < 20
    before = contents(models)
    settings = tiny_settings(tmp_path, save_epoch_number=0, eval_every_steps=0, batch_size=16)
    stop_at(first + step if step else 0, save=save)(open_run(settings, resume=epoch), [])
    assert contents(models) == before
    assert peek_checkpoint(models / LATEST).step == 20

    stop_at(first + 2, save=True)(open_run(settings, resume=epoch), [])
    assert peek_checkpoint(models / LATEST).step == first + 2
    logged = [event.step for event in read_metrics(models / "metrics.jsonl") if isinstance(event, ev.StepCompleted)]
    assert logged == list(range(1, first + 3))


def test_a_run_resumed_into_another_runs_folder_replaces_that_one_at_its_first_save(
    models: Path, tmp_path: Path
) -> None:
    other = tiny_settings(tmp_path, models_dir=str(tmp_path / "other"), max_steps=4)
    train(other)
    before = contents(tmp_path / "other")
    resumed = tiny_settings(tmp_path, models_dir=str(tmp_path / "other"), eval_every_steps=0, batch_size=16)
    with pytest.raises(GptError, match="--overwrite"):
        open_run(resumed, resume=models / LATEST)
    stop_at(22, save=False)(open_run(resumed, resume=models / LATEST, overwrite=True), [])
    assert contents(tmp_path / "other") == before
    stop_at(22, save=True)(open_run(resumed, resume=models / LATEST, overwrite=True), [])
    assert set(contents(tmp_path / "other")) == {"best_model.safetensors", LATEST, "metrics.jsonl"}
    assert {peek_checkpoint(path).run_id for path in (tmp_path / "other").glob("*.safetensors")} == {
        peek_checkpoint(models / LATEST).run_id
    }
    steps = [e.step for e in read_metrics(tmp_path / "other" / "metrics.jsonl") if isinstance(e, ev.StepCompleted)]
    assert steps == [21, 22]


# ---- the folder is moved or removed while a run trains


def run_with(tmp_path: Path, at_step_6: Callable[[Path], None]) -> tuple[Any, list[ev.AnyEvent]]:
    """A run of ten steps that saves after the fifth, with something done to its folder after the sixth."""
    trainer = open_run(tiny_settings(tmp_path, max_steps=10, save_every_steps=5, eval_every_steps=0))

    def after_saves() -> None:
        list(trainer._saver.finish())
        at_step_6(tmp_path / "models")

    return trainer, events_with(trainer, 6, after_saves)


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_folder_that_disappears_during_a_run_is_restored_with_its_lock_and_complete_log(
    tmp_path: Path, how: str
) -> None:
    def goes(models: Path) -> None:
        if how == "moved":
            models.rename(tmp_path / "moved")
        else:
            shutil.rmtree(models)

    trainer, events = run_with(tmp_path, goes)
    models = tmp_path / "models"
    assert not of_kind(events, ev.SaveFailed)
    assert peek_checkpoint(models / LATEST).step == 10
    assert (models / ".lock").exists()
    logged = [event.step for event in read_metrics(models / "metrics.jsonl") if isinstance(event, ev.StepCompleted)]
    assert logged == list(range(1, 11))
    if how == "moved":
        assert peek_checkpoint(tmp_path / "moved" / LATEST).step == 5
        with CheckpointStore(tmp_path / "moved") as store:
            store.prepare(trainer.state.run_id, new_run=False)


def test_a_restored_folder_is_locked(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, save_every_steps=2, eval_every_steps=0))
    events = trainer.events()
    for event in events:
        if event.step == 3 and isinstance(event, ev.StepCompleted):
            list(trainer._saver.finish())
            (tmp_path / "models").rename(tmp_path / "moved")
        if isinstance(event, ev.CheckpointSaved) and event.step == 4:
            break
    with pytest.raises(FolderInUseError):
        CheckpointStore(tmp_path / "models").prepare("run-b", new_run=True, overwrite=True)
    trainer.requests.stop(save=False)
    list(events)


@pytest.mark.parametrize("instead", ["another run", "a file"])
def test_a_run_that_cannot_be_saved_in_its_folder_is_saved_next_to_it(tmp_path: Path, instead: str) -> None:
    def exchanged(models: Path) -> None:
        models.rename(tmp_path / "moved")
        if instead == "a file":
            models.write_text("mine")
            return
        with CheckpointStore(models) as store:
            store.prepare("run-b", new_run=True)
            store.save("latest", sample(run_id="run-b"))

    trainer, events = run_with(tmp_path, exchanged)
    saved = of_kind(events, ev.CheckpointSaved)[-1]
    assert saved == ev.CheckpointSaved("latest", str(tmp_path / f"gpt-tui-{trainer.state.run_id}" / LATEST), 10)
    assert read_checkpoint(saved.path).state == trainer.state
    assert {event.step for event in of_kind(events, ev.SaveFailed)} == {10}
    if instead == "a file":
        assert (tmp_path / "models").read_text() == "mine"
    else:
        assert peek_checkpoint(tmp_path / "models" / LATEST).run_id == "run-b"


def test_a_run_that_cannot_be_saved_anywhere_reports_it_and_leaves_no_empty_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    _, events = run_with(tmp_path, lambda _: monkeypatch.setattr("gpt_core.files.write_new", full))
    assert {event.step for event in of_kind(events, ev.SaveFailed)} == {10}
    assert not [event for event in of_kind(events, ev.CheckpointSaved) if event.step == 10]
    assert not list(tmp_path.glob("gpt-tui-*"))
    assert not list((tmp_path / "temporary").iterdir())


def test_a_run_with_a_user_present_waits_until_it_is_saved_or_discarded(tmp_path: Path) -> None:
    trainer = open_run(tiny_settings(tmp_path, max_steps=4, eval_every_steps=0))
    trainer.requests.can_ask = True
    models, events = tmp_path / "models", []

    def train_on() -> None:
        for event in trainer.events():
            events.append(event)
            if event.step == 2 and isinstance(event, ev.StepCompleted):
                models.rename(tmp_path / "moved")
                models.write_text("in the way")

    def waits(number: int) -> None:
        while trainer.unsaved != number:
            assert thread.is_alive()
            time.sleep(0.005)

    thread = threading.Thread(target=train_on)
    thread.start()
    waits(1)
    trainer.requests.save()
    waits(2)
    models.unlink()
    trainer.requests.save()
    thread.join()
    saves = [(type(event), event.kind) for event in events if isinstance(event, ev.SaveFailed | ev.CheckpointSaved)]
    saved = [(ev.CheckpointSaved, kind) for kind in ("latest", "best", "final", "latest")]
    assert saves[-6:] == [(ev.SaveFailed, "latest")] * 2 + saved
    assert isinstance(events[-1], ev.RunFinished)
    assert peek_checkpoint(models / LATEST).step == 4


def test_a_run_whose_working_folder_is_deleted_is_saved_in_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    trainer = open_run(tiny_settings(tmp_path, models_dir="models"))

    def delete_and_stop() -> None:
        shutil.rmtree(tmp_path / "work")
        trainer.requests.stop()

    events = events_with(trainer, 3, delete_and_stop)
    saved = [event.path for event in of_kind(events, ev.CheckpointSaved)]
    assert saved[-1:] == [str(tmp_path / f"temporary/gpt-tui-{trainer.state.run_id}" / LATEST)]
    assert peek_checkpoint(Path(saved[-1])).step == 3
