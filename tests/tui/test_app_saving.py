"""The app loses no work: replaced runs, the folder of self-tests, and a last save that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import CorpusError
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.training import setup
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.overfit_folder import overfit_folder
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_preview import kept_files
from tests.core.checkpoint_samples import SETTINGS, sample
from tests.core.training_samples import tiny_settings, train
from tests.tui.app_bench import AppBench, running_app
from tests.tui.fake_trainer import FakeOpen, fake_settings

LATEST = "ckpt_latest.safetensors"


def tiny(folder: Path, **changes: object) -> dict[str, object]:
    """Return the settings of a tiny run, without the models folder, on a text too long to complete an epoch."""
    settings = tiny_settings(folder, **{"batch_size": 2, "micro_batch_size": 2, "eval_every_steps": 0, **changes})
    text = Path(settings.train_file)
    text.write_text(text.read_text() * 100)
    return {name: getattr(settings, name) for name in settings.__struct_fields__ if name != "models_dir"}


def real_app(folder: Path, **changes: object):
    """Run the app with real runs in `folder`/models."""
    return running_app(folder / "models", opener=open_run, size=(120, 40), **tiny(folder, **changes))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files of a folder, without the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


async def test_saves_that_were_not_requested_are_not_announced(tmp_path: Path):
    async with real_app(tmp_path, save_every_steps=5, max_steps=1_000_000) as bench:
        await bench.until_seen("Start training")
        await bench.pilot.press("s")
        await bench.until(lambda: bench.app.controller.run.saved is not None)
        assert not list(bench.app._notifications)
        await bench.pilot.press("w")
        await bench.until(lambda: any(notice.message.startswith("saved ") for notice in bench.app._notifications))
        saved = bench.app.controller.run.saved
        assert saved is not None
        await bench.until(lambda: bench.app.controller.run.saved != saved)
        assert len([1 for notice in bench.app._notifications if notice.message.startswith("saved ")]) == 1


async def test_a_failed_replacement_deletes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_arguments: object, **_options: object) -> None:
        raise CorpusError("the text cannot be read")

    train(tiny_settings(tmp_path, max_steps=20))
    before = contents(tmp_path / "models")
    async with real_app(tmp_path) as bench:
        await bench.until_seen("Resume (step 20")
        monkeypatch.setattr(setup, "open_texts", fail)
        await bench.pilot.press("s")
        await bench.until_seen("This folder already has a run")
        await bench.pilot.press("d")
        await bench.until_phase(Phase.FAILED)
    assert contents(tmp_path / "models") == before


@pytest.mark.slow
async def test_a_run_started_beside_another_leaves_it_unchanged(tmp_path: Path):
    train(tiny_settings(tmp_path, max_steps=20))
    before = contents(tmp_path / "models")
    (tmp_path / "models-2").mkdir()
    async with real_app(tmp_path, max_steps=3) as bench:
        await bench.until_seen("Resume (step 20")
        await bench.pilot.press("s")
        await bench.until_seen("b  Start in a new folder,")
        await bench.pilot.press("b")
        await bench.until(lambda: bench.app.controller.run.started is not None)
        await bench.until_phase(Phase.FINISHED)
    assert contents(tmp_path / "models") == before
    assert peek_checkpoint(tmp_path / "models-3" / LATEST).step == 3
    assert not contents(tmp_path / "models-2")


@pytest.mark.parametrize(("saved", "exists", "kept"), [(False, True, True), (True, True, False), (False, False, False)])
def test_a_replacement_that_saved_nothing_says_that_the_files_were_kept(
    tmp_path: Path, saved: bool, exists: bool, kept: bool
):
    if exists:
        save_run(tmp_path / "models", overfit=False)
    controller = TrainingController(FakeOpen(), lambda _message: None, tmp_path / "errors.log")
    assert controller.start(RunRequest(fake_settings(str(tmp_path / "models")), "nano", overwrite=True))
    controller.stop(save=saved)
    assert controller.join(60.0)
    controller.drain()
    assert bool(controller.kept) == kept
    if kept:
        models = tmp_path / "models"
        assert controller.kept == f"no checkpoint saved in {models}: the earlier run's files were kept"


def test_a_save_in_another_folder_replaces_no_files(tmp_path: Path):
    save_run(tmp_path, overfit=False)
    request = RunRequest(fake_settings(str(tmp_path)), "nano", overwrite=True)
    assert kept_files(request, {tmp_path / "elsewhere"})
    assert not kept_files(request, {tmp_path / "elsewhere", tmp_path})
    assert not kept_files(replace(request, overwrite=False))


@pytest.mark.slow
async def test_a_replacement_quit_without_a_save_deletes_no_checkpoint(tmp_path: Path):
    train(tiny_settings(tmp_path, max_steps=20))
    before = contents(tmp_path / "models")
    async with real_app(tmp_path) as bench:
        await bench.until_seen("Resume (step 20")
        await bench.pilot.press("s")
        await bench.until_seen("This folder already has a run")
        await bench.pilot.press("d")
        await bench.until_step(3)
        await bench.pilot.press("q")
        await bench.until_seen("Quit gpt-tui?")
        await bench.pilot.press("d")
        await bench.until(lambda: bench.app._exit)
        assert "the earlier run's files were kept" in bench.app.exit_message
    after = contents(tmp_path / "models")
    assert after.pop("metrics.previous.jsonl")
    assert after == before


# ---- tiny overfit


def save_run(folder: Path, *, overfit: bool) -> None:
    """Save a run of one checkpoint."""
    settings = msgspec.structs.replace(SETTINGS, overfit_tiny=overfit)
    with CheckpointStore(folder) as store:
        store.prepare("run-a", new_run=True)
        store.save("latest", sample(settings))


@pytest.mark.parametrize(
    ("there", "chosen"), [((), "overfit"), ((True,), "overfit"), ((False,), "overfit-2"), ((False, True), "overfit-2"),
                          ((False, False), "overfit-3")],
)  # fmt: skip
def test_a_self_test_replaces_only_an_earlier_self_test(tmp_path: Path, there: tuple[bool, ...], chosen: str):
    for number, overfit in enumerate(there, start=1):
        save_run(tmp_path / ("overfit" if number == 1 else f"overfit-{number}"), overfit=overfit)
    assert overfit_folder(str(tmp_path)).name == chosen


@pytest.mark.parametrize("what", ["damaged", "log", "file", "link"])
def test_a_self_test_does_not_replace_foreign_files(tmp_path: Path, what: str):
    folder = tmp_path / "overfit"
    if what == "file":
        folder.write_text("mine")
    elif what == "link":
        folder.symlink_to(tmp_path / "nowhere")
    else:
        folder.mkdir()
        if what == "damaged":
            (folder / LATEST).write_bytes(b"half a check")
        else:
            train(tiny_settings(tmp_path, models_dir=str(folder), max_steps=1))
            (folder / LATEST).unlink()
    assert overfit_folder(str(tmp_path)).name == "overfit-2"


def test_a_folder_that_cannot_be_looked_at_is_left_to_the_run_to_report(tmp_path: Path):
    beyond = tmp_path / ("x" * 300)  # an error of `stat`, as a folder of another user gives
    assert overfit_folder(str(beyond)) == beyond / "overfit"


@pytest.mark.slow
async def test_the_self_test_key_keeps_a_run_in_the_overfit_folder(tmp_path: Path):
    save_run(tmp_path / "models" / "overfit", overfit=False)
    before = contents(tmp_path / "models" / "overfit")
    async with real_app(tmp_path, overfit_steps=3) as bench:
        for _ in range(2):
            await bench.pilot.press("o")
            await bench.until(lambda: bench.app.controller.run.started is not None)
            await bench.until_phase(Phase.FINISHED)
    assert contents(tmp_path / "models" / "overfit") == before
    assert sorted(path.name for path in (tmp_path / "models").iterdir() if path.is_dir()) == ["overfit", "overfit-2"]


# ---- a last save that fails


async def leave_unsaved(bench: AppBench, models: Path) -> None:
    """Put a file where the models folder is, and press Ctrl+C: the app asks."""
    await bench.until_step(3)
    models.rename(models.with_name("moved"))
    models.write_text("in the way")
    await bench.pilot.press("ctrl+c")
    await bench.until_seen("The run is not saved")
    assert not bench.app._exit


@pytest.mark.slow
async def test_a_moved_folder_is_created_again_on_exit(tmp_path: Path):
    async with real_app(tmp_path) as bench:
        await bench.pilot.press("s")
        await bench.until_step(3)
        (tmp_path / "models").rename(tmp_path / "moved")
        await bench.pilot.press("ctrl+c")
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 130
    assert peek_checkpoint(tmp_path / "models" / LATEST).step >= 3


@pytest.mark.slow
async def test_quitting_an_unsavable_run_asks_and_tries_again(tmp_path: Path):
    models = tmp_path / "models"
    async with real_app(tmp_path) as bench:
        await bench.pilot.press("s")
        await leave_unsaved(bench, models)
        await bench.pilot.press("s")
        await bench.until(lambda: bench.app.controller.unsaved == 2)
        await bench.until_seen("The run is not saved")
        models.unlink()
        await bench.pilot.press("s")
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 130
    assert peek_checkpoint(models / LATEST).step == bench.app.controller.run.step


@pytest.mark.slow
async def test_an_unsavable_run_is_discarded_only_by_choice(tmp_path: Path):
    async with real_app(tmp_path) as bench:
        await bench.pilot.press("s")
        await leave_unsaved(bench, tmp_path / "models")
        await bench.pilot.press("d")
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 1
    assert "not saved" in bench.app.exit_message


@pytest.mark.slow
async def test_cancelling_the_question_keeps_the_run_and_w_saves_it(tmp_path: Path):
    models = tmp_path / "models"
    async with real_app(tmp_path) as bench:
        await bench.pilot.press("s")
        await leave_unsaved(bench, models)
        await bench.pilot.press("escape")
        await bench.until_seen("not saved (F2, then w: try again; ^q: quit)")
        models.unlink()
        await bench.pilot.press("w")
        await bench.until_phase(Phase.STOPPED)
        assert not bench.app._exit
    assert peek_checkpoint(models / LATEST).step == bench.app.controller.run.step


@pytest.mark.slow
async def test_a_terminated_app_saves_beside_an_unusable_folder(tmp_path: Path):
    async with real_app(tmp_path) as bench:
        await bench.pilot.press("s")
        await leave_unsaved(bench, tmp_path / "models")
        bench.app.quit(143)
        await bench.until(lambda: bench.app._exit)
    assert bench.app.return_code == 1
    saved = next(tmp_path.glob("gpt-tui-*")) / LATEST
    assert peek_checkpoint(saved).step == bench.app.controller.run.step
    assert str(saved) in bench.app.exit_message


@pytest.mark.slow
async def test_the_end_of_a_self_test_shows_its_verdict(tmp_path: Path):
    async with real_app(tmp_path, overfit_tiny=True, overfit_lines=2, overfit_steps=2) as bench:
        await bench.until_seen("Start training")
        await bench.pilot.press("s")
        await bench.until_phase(Phase.FINISHED)
        verdict = "self-test does not work: 0 of 2 lines reproduced"
        assert bench.app.main.banner.text.startswith(f"step 2: {verdict}. F3: chat; ")
        assert any(verdict in line.text for line in bench.app.controller.run.log)
        assert bench.app.controller.run.samples[-1].step == 2
