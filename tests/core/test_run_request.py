"""Run requests: resolving settings once, and choosing the checkpoint to resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import NO_EPOCH_LIMIT, Settings
from gpt_core.errors import CheckpointError, ConfigError, CorpusError, ResumeTextError
from gpt_core.formats import safetensors
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.training.events import RunStarted
from gpt_core.training.request import RunRequest, resolve_request
from gpt_core.training.setup import open_run
from tests.core.training_samples import tiny_settings, train

LATEST, BEST = "ckpt_latest.safetensors", "best_model.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and the checkpoints of a run of 6 steps."""
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_settings(folder, max_steps=6))
    return folder


def truncate(path: Path) -> None:
    """Damage a file as an incomplete copy does."""
    path.write_bytes(path.read_bytes()[:-1])


def first_event(request: RunRequest) -> RunStarted:
    """Open a run and return its first event; the run is stopped."""
    trainer = open_run(request)
    trainer.requests.stop(save=False)
    started = next(iter(trainer.events()))
    assert isinstance(started, RunStarted)
    return started


def test_resuming_the_newest_reports_a_damaged_checkpoint_that_is_passed_over(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=6)
    train(settings)
    truncate(tmp_path / "models" / LATEST)
    started = first_event(RunRequest(settings, resume="newest"))
    assert Path(started.resumed_from).name == BEST
    (warning,) = started.warnings
    assert warning.startswith("skipped: ")
    assert f"{LATEST} is damaged" in warning


def test_resuming_where_every_checkpoint_is_damaged_names_them_and_the_reasons(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=6)
    train(settings)
    for path in (tmp_path / "models").glob("*.safetensors"):
        truncate(path)
    reasons = r"best_model\.safetensors is damaged: .*ckpt_latest\.safetensors is damaged: "
    for resume in (lambda: open_run(RunRequest(settings, resume="newest")), lambda: newest_of(tmp_path / "models")):
        with pytest.raises(CheckpointError, match=reasons):
            resume()


def newest_of(folder: Path) -> RunRequest:
    """Resolve a request to resume the newest checkpoint of a folder."""
    return resolve_request(read_overrides(options={"models_dir": str(folder)}), resume="newest")


def test_resuming_a_finished_run_lifts_its_step_limit_however_it_is_requested(trained: Path) -> None:
    models = trained / "models"
    by_command = resolve_request(read_overrides(), resume=models / LATEST)
    by_app = RunRequest(Settings(models_dir=str(models)), resume=models / LATEST, as_saved=True).located()
    newest = RunRequest(Settings(models_dir=str(models)), resume="newest").located()
    assert by_command.settings.max_steps == by_app.settings.max_steps == newest.settings.max_steps == 0
    assert by_command.resume == by_app.resume == newest.resume == models / LATEST
    assert by_command.raised == by_app.raised == newest.raised
    assert by_command.raised[0].startswith("the run had reached max_steps=6: it is lifted")
    assert resolve_request(read_overrides(), resume=models / BEST).settings.max_steps == 6  # saved at step 5


def test_a_raised_limit_that_was_requested_is_not_explained(trained: Path) -> None:
    latest = trained / "models" / LATEST
    by_command = resolve_request(read_overrides(options={"max_steps": "0"}), resume=latest)
    by_app = RunRequest(Settings(models_dir=str(trained / "models")), resume=latest, as_saved=True)
    assert by_command.settings.max_steps == 0
    assert by_command.raised == by_app.with_changes(max_steps=0).located().raised == ()


def test_resumed_settings_are_those_of_the_checkpoint_except_the_requested_ones(trained: Path) -> None:
    overrides = read_overrides(assignments=["seed=7"], options={"max_steps": "9"})
    request = resolve_request(overrides, resume=trained / "models" / LATEST)
    saved = tiny_settings(trained)
    assert request.settings.shape == saved.shape
    assert (request.settings.seed, request.settings.max_steps) == (7, 9)
    assert request.settings.models_dir == str(trained / "models")
    other = resolve_request(read_overrides(options={"models_dir": "other"}), resume=trained / "models" / LATEST)
    assert other.settings.models_dir == "other"


def test_a_resume_does_not_check_the_requested_settings_against_a_preset(trained: Path) -> None:
    """4 heads, the default preset's, do not divide a width of 18; the 2 heads of the checkpoint do."""
    overrides = read_overrides(assignments=["d_model=18"])
    with pytest.raises(ConfigError):
        resolve_request(overrides)
    assert resolve_request(overrides, resume=trained / "models" / LATEST).settings.d_model == 18


def test_as_saved_takes_threads_and_folder_of_the_request(trained: Path) -> None:
    here = Settings(models_dir=str(trained / "models"), threads=1, seed=5)
    request = RunRequest(here, resume=trained / "models" / LATEST, as_saved=True, overwrite=True).located()
    assert (request.settings.threads, request.settings.seed, request.overwrite) == (1, 0, True)
    assert request.located() is request


def test_changes_override_every_setting_of_a_resume_as_saved(trained: Path, tmp_path: Path) -> None:
    here = Settings(models_dir=str(trained / "models"), threads=1)
    changes = {"threads": 2, "models_dir": str(tmp_path), "max_steps": 9}
    request = RunRequest(here, resume=trained / "models" / LATEST, as_saved=True, changes=changes).located()
    assert {name: getattr(request.settings, name) for name in changes} == changes
    request = RunRequest(here, resume="newest", changes={"threads": 2}).located()
    assert (request.settings.threads, request.settings.models_dir) == (2, here.models_dir)


@pytest.mark.parametrize("as_saved", [False, True])
def test_a_request_with_changes_keeps_those_that_it_has(trained: Path, as_saved: bool) -> None:
    saved = tiny_settings(trained)
    request = RunRequest(saved, resume=trained / "models" / LATEST, as_saved=as_saved).with_changes(max_steps=9)
    other = str(trained / "eval.en")
    changed = request.with_changes(train_file=other).located().settings
    assert (changed.max_steps, changed.train_file, changed.eval_file) == (9, other, saved.eval_file)


def test_a_missing_text_is_reported_before_the_run_is_opened(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="missing"):
        resolve_request(read_overrides(options={"train_file": str(tmp_path / "missing.txt")}))


@pytest.mark.parametrize(("setting", "option"), [("train_file", "--train-file"), ("eval_file", "--eval-file")])
def test_a_missing_text_of_a_resumed_run_is_explained(tmp_path: Path, setting: str, option: str) -> None:
    settings = tiny_settings(tmp_path, max_steps=2)
    train(settings)
    checkpoint, text = tmp_path / "models" / LATEST, Path(getattr(settings, setting))
    text.unlink()
    here = Settings(models_dir=str(tmp_path / "models"))
    for resume in (
        lambda: resolve_request(read_overrides(), resume=checkpoint),
        lambda: open_run(RunRequest(here, resume=checkpoint, as_saved=True)),
    ):
        with pytest.raises(ResumeTextError) as caught:
            resume()
        reason = f"cannot read the text {text}: No such file or directory; it is the text of the run of {checkpoint}"
        assert caught.value.reason == reason
        remedy = f": run the command in the folder of that run, or name it with {option}"
        assert str(caught.value) == reason + remedy
        assert caught.value.setting == setting
    with pytest.raises(ResumeTextError, match=r"typed: No such file or directory; name a text file$") as caught:
        resolve_request(read_overrides(options={setting: str(tmp_path / "typed")}), resume=checkpoint)
    assert caught.value.setting == setting


def test_a_loaded_checkpoint_is_used_by_one_run_and_read_again_for_the_next(trained: Path) -> None:
    request = resolve_request(read_overrides(options={"max_steps": "13"}), resume=trained / "models" / LATEST)
    assert request.loaded.is_available
    first = open_run(request)
    before = first.parameters.flat.tobytes()
    first.parameters.flat[:] = 0.0  # training changes the tensors in place
    first.run.store.close()
    assert not request.loaded.is_available
    second = open_run(request)
    second.run.store.close()
    assert second.parameters.flat.tobytes() == before


def test_a_checkpoint_that_is_saved_again_before_the_folder_is_locked_is_not_resumed(tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, max_steps=6))
    latest = tmp_path / "models" / LATEST
    request = resolve_request(read_overrides(options={"max_steps": "20"}), resume=latest)
    train(tiny_settings(tmp_path, max_steps=9), latest)  # its last save is after the request has read the checkpoint
    with pytest.raises(CheckpointError, match=r"saved again .* at step 6, and is at step 9 now; resume it again"):
        open_run(request)
    assert peek_checkpoint(latest).step == 9
    with CheckpointStore(tmp_path / "models") as store:  # it is not locked
        store.prepare(peek_checkpoint(latest).run_id, new_run=False)


@pytest.mark.parametrize("kind", ["same file", "copy", "one of several"])
def test_an_eval_text_that_contains_the_training_text_is_a_warning(tmp_path: Path, kind: str) -> None:
    settings = tiny_settings(tmp_path)
    train_file, copy = Path(str(settings.train_file)), tmp_path / "copy.en"
    copy.write_bytes(train_file.read_bytes())
    eval_files = {
        "same file": (f"{tmp_path}/./train.en",),
        "copy": (str(copy),),
        "one of several": (str(settings.eval_file), str(train_file)),
    }
    (warning,) = first_event(RunRequest(msgspec.structs.replace(settings, eval_file=eval_files[kind]))).warnings
    assert f"contains the training text {train_file}: the model is scored on what it is trained on" in warning


def test_another_eval_text_and_one_whose_file_is_left_out_of_training_are_no_warning(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    both = msgspec.structs.replace(settings, train_file=(str(settings.train_file), str(settings.eval_file)))
    for number, used in enumerate((settings, both)):
        apart = msgspec.structs.replace(used, models_dir=str(tmp_path / f"models{number}"))
        assert first_event(RunRequest(apart)).warnings == ()


@pytest.mark.parametrize(
    "limits", [{"max_epochs": 5}, {"max_epochs": 9, "max_steps": 60}, {"max_epochs": NO_EPOCH_LIMIT, "max_steps": 40}]
)
def test_the_warning_about_disk_space_counts_the_checkpoints_of_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    settings = tiny_settings(tmp_path, save_epoch_number=2, sample_tokens=0, **limits)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    train(msgspec.structs.replace(settings, models_dir=str(tmp_path / "all")))
    count = len(list((tmp_path / "all").glob("epoch_*")))
    assert count > 0
    (warning,) = first_event(RunRequest(settings)).warnings
    assert warning.endswith(f"MB needed for {count + 2} checkpoints; free some disk space")
    if "max_steps" not in limits:
        train(msgspec.structs.replace(settings, models_dir=str(tmp_path / "some"), max_epochs=3))
        again = msgspec.structs.replace(settings, models_dir=str(tmp_path / "some"))
        warnings = first_event(RunRequest(again, resume="newest")).warnings
        assert "needed for 4 checkpoints" in " ".join(warnings), "of epochs 2, 4 and 6, the first is saved already"


def test_the_warning_about_disk_space_counts_no_epochs_without_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    for number, changes in enumerate(
        ({"max_epochs": NO_EPOCH_LIMIT, "save_epoch_number": 1}, {"save_epoch_number": 0})
    ):
        settings = tiny_settings(tmp_path, max_steps=0, models_dir=str(tmp_path / f"models{number}"), **changes)
        (warning,) = first_event(RunRequest(settings)).warnings
        assert "needed for 2 checkpoints" in warning


@pytest.mark.parametrize("name", ["train_file", "eval_file"])
def test_more_file_names_than_a_checkpoint_can_hold_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 400_000)
    settings = tiny_settings(tmp_path)
    few, many = ((str(getattr(settings, name)),) * count for count in (10, 400_000 // len(str(tmp_path))))
    assert first_event(RunRequest(msgspec.structs.replace(settings, **{name: few})))
    with pytest.raises(ConfigError, match=rf"^{name}: got [0-9,]+ bytes, .*; name the folder or a pattern instead$"):
        open_run(RunRequest(msgspec.structs.replace(settings, **{name: many}, models_dir=str(tmp_path / "other"))))
    assert not (tmp_path / "other").exists()


def test_a_prompt_that_is_too_long_for_a_checkpoint_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 400_000)
    with pytest.raises(ConfigError, match=r"^sample_prompt: got 400,002 bytes, .*; shorten it$"):
        open_run(RunRequest(tiny_settings(tmp_path, sample_prompt="x" * 400_000)))
