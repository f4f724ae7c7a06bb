import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from gpt_core.checkpoints.lock import lock_holder
from gpt_core.checkpoints.store import CheckpointStore, UnusableCheckpoint, chat_candidates, resume_candidates
from gpt_core.config.presets import preset
from gpt_core.errors import ConfigError, FolderInUseError, RunExistsError, SaveError
from gpt_core.formats import checkpoint as checkpoint_module
from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint, verify_checkpoint, write_checkpoint
from gpt_core.training.metrics_log import open_log
from tests.core.checkpoint_samples import SETTINGS, sample


@pytest.fixture
def store(tmp_path):
    with CheckpointStore(tmp_path / "models") as opened:
        opened.prepare("run-a", new_run=True)
        yield opened


def names(store):
    return sorted(path.name for path in store.folder.iterdir() if path.name != ".lock")


def flip_last_weight(path):
    data = bytearray(path.read_bytes())
    data[-len(b"some pieces") - 1] ^= 1
    path.write_bytes(data)


def test_each_kind_has_its_name(store):
    written = sample(epoch=12, best_accuracy=0.5)
    paths = [store.save(kind, written) for kind in ("latest", "best", "epoch", "final")]
    assert [path.name for path in paths] == [
        "ckpt_latest.safetensors", "best_model.safetensors", "epoch_012.safetensors", "transformer.safetensors"
    ]  # fmt: skip
    assert paths[2] == store.path_of("epoch", 12)
    assert store.path_of("epoch", 1234).name == "epoch_1234.safetensors"
    assert [peek_checkpoint(path).kind for path in paths] == ["latest", "best", "epoch", "final"]
    with pytest.raises(KeyError):
        store.path_of("other")


def test_prepare_creates_an_empty_folder(tmp_path):
    with CheckpointStore(tmp_path / "a" / "b") as store:
        store.prepare("run-a", new_run=True)
        assert names(store) == []


def test_an_absent_folder_has_no_checkpoints(tmp_path):
    store = CheckpointStore(tmp_path / "absent")
    assert store.list() == []
    assert store.load_for_resume() == (None, [])
    assert store.load_for_chat() == (None, [])


@pytest.mark.parametrize("place", ["file/models", "a\0b", "/proc/self/models"])
def test_a_folder_that_cannot_be_written_is_rejected_at_once(tmp_path, place, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(time, "sleep", None)  # nothing is waited for
    with pytest.raises(ConfigError, match="--models-dir") as caught:
        CheckpointStore(tmp_path / place).prepare("run-a", new_run=True)
    assert "cannot be written" in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, kind):
    path = tmp_path / "models"
    if kind == "file":
        path.write_text("")
    else:
        path.symlink_to("nothing")
    store = CheckpointStore(path)
    for use in (lambda: store.prepare("run-a", new_run=True), store.load_for_resume, store.load_for_chat):
        with pytest.raises(ConfigError, match=f"models_dir: .*models is a {kind}, expected a folder; choose another"):
            use()


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_read_only_or_full_disk_is_rejected_and_the_lock_released(tmp_path, monkeypatch, call):
    def fail(*_, **__):
        raise OSError(30, "Read-only file system")

    store = CheckpointStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(ConfigError, match="Read-only file system"):
            store.prepare("run-a", new_run=True)
    with CheckpointStore(tmp_path) as another:
        another.prepare("run-b", new_run=True)
        assert names(another) == []


def test_a_new_run_rejects_a_folder_with_another_runs_checkpoints_and_names_the_options(store):
    store.save("latest", sample(step=1234))
    store.save("epoch", sample(step=1234))
    before = {name: (store.folder / name).read_bytes() for name in names(store)}
    store.close()
    with pytest.raises(RunExistsError) as caught:
        CheckpointStore(store.folder).prepare("run-b", new_run=True)
    for said in ("ckpt_latest.safetensors (step 1,234) and 1 more", "--resume", "--models-dir", "--overwrite"):
        assert said in str(caught.value).replace("epoch_001", "ckpt_latest")
    assert {name: (store.folder / name).read_bytes() for name in names(store)} == before
    with CheckpointStore(store.folder) as again:
        again.prepare("run-a", new_run=False)


def test_a_resumed_run_rejects_a_folder_of_another_run(store):
    store.save("latest", sample())
    store.close()
    with pytest.raises(RunExistsError):
        CheckpointStore(store.folder).prepare("run-b", new_run=False)


@pytest.mark.parametrize(
    ("bytes_left", "state"), [(500, "damaged"), (0, "damaged"), (None, "not a gpt-tui checkpoint")]
)
def test_a_damaged_checkpoint_stops_a_new_run_and_not_a_resumed_one(store, bytes_left, state):
    path = store.save("latest", sample())
    path.write_bytes(b"of another program" if bytes_left is None else path.read_bytes()[:bytes_left])
    store.close()
    with pytest.raises(RunExistsError, match=rf"ckpt_latest.safetensors \({state}\)"):
        CheckpointStore(store.folder).prepare("run-b", new_run=True)
    with CheckpointStore(store.folder) as again:
        again.prepare("run-a", new_run=False)
        assert names(again) == ["ckpt_latest.safetensors"]


def test_overwriting_removes_the_other_runs_files_at_the_first_save_and_nothing_else(store):
    for kind in ("latest", "best", "epoch", "final"):
        store.save(kind, sample())
    store.path_of("epoch", 7).write_bytes(b"damaged")
    store.metrics_path.write_text("{}\n")
    write_checkpoint(store.folder / "mine.safetensors", sample())
    (store.folder / "README.md").write_text("read me")
    store.close()
    with CheckpointStore(store.folder) as again:
        before = names(again)
        again.prepare("run-b", new_run=True, overwrite=True)
        assert names(again) == before
        open_log(again, "run-b", 0).close()
        assert set(names(again)) > set(before)
        again.save("latest", sample(run_id="run-b"))
        assert names(again) == ["README.md", "ckpt_latest.safetensors", "metrics.jsonl", "mine.safetensors"]
        assert again.metrics_path.read_bytes() == b""


def test_a_checkpoint_with_a_name_of_the_user_is_no_obstacle_for_a_run(tmp_path):
    write_checkpoint(tmp_path / "mine.safetensors", sample())
    with CheckpointStore(tmp_path) as store:
        store.prepare("run-b", new_run=True)
        assert [info.kind for info in store.list()] == ["other"]
        assert store.load_for_resume().checkpoint is None
        assert store.load_for_chat().checkpoint.path.name == "mine.safetensors"


def test_prepare_leaves_every_log_in_place(store):
    store.save("latest", sample())
    store.metrics_path.write_text("{}\n")
    store.close()
    with CheckpointStore(store.folder) as again:
        again.prepare("run-a", new_run=False)
        assert again.metrics_path.exists()
        again.close()
        again.prepare("run-b", new_run=False, overwrite=True)
        assert not again.has_own_log
        assert again.metrics_path.read_text() == "{}\n"


def test_a_second_trainer_is_rejected_with_the_name_of_the_first(store):
    code = (
        "import sys; from gpt_core.checkpoints.store import CheckpointStore as S;"
        "S(sys.argv[1]).prepare('x', new_run=True)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, store.folder], capture_output=True, text=True, timeout=120, check=False
    )
    assert f"process {os.getpid()} is training there" in other.stderr
    store.prepare("run-a", new_run=True)  # the holder itself may ask again


def test_the_lock_names_the_present_holder_alone(tmp_path):
    (tmp_path / ".lock").write_text("99999999999999\n")
    with CheckpointStore(tmp_path) as store:
        store.prepare("run-a", new_run=True)
        holder = lock_holder(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()


def test_a_second_run_of_one_process_is_rejected_with_the_call_that_helps(store):
    with pytest.raises(FolderInUseError) as caught:
        CheckpointStore(store.folder).prepare("run-b", new_run=True)
    assert str(caught.value) == (
        f"{store.folder} is in use: an earlier run of this process holds it; call its close(), or set models_dir to "
        "another folder"
    )


def test_the_lock_is_released_when_its_process_is_killed(tmp_path):
    code = (
        "import sys; from gpt_core.checkpoints.store import CheckpointStore as S; s = S(sys.argv[1]);"
        "s.prepare('x', new_run=True); print('held', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUseError, match=f"process {owner.pid} "):
            CheckpointStore(tmp_path).prepare("run-b", new_run=True)
    finally:
        owner.kill()
        owner.wait()
    with CheckpointStore(tmp_path) as store:
        store.prepare("run-b", new_run=True)


def test_a_planted_lock_is_never_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / ".lock").symlink_to(victim)
    with pytest.raises(ConfigError):
        CheckpointStore(tmp_path / "models").prepare("run-a", new_run=True)
    assert victim.read_text() == "precious"


def test_temporary_files_of_a_killed_save_are_removed_and_foreign_files_are_not(tmp_path):
    mark = "0123456789abcdef"
    ours = [f".ckpt_latest.safetensors.{mark}.new", f".epoch_003.safetensors.{mark}.old", f".metrics.jsonl.{mark}.new"]
    theirs = [f".notes.txt.{mark}.new", "ckpt_latest.safetensors.new", f".ckpt_latest.safetensors.{mark}.bak"]
    for name in ours + theirs:
        (tmp_path / name).write_text("half")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / f".best_model.safetensors.{mark}.new"
    link.symlink_to(victim)
    (tmp_path / f".transformer.safetensors.{mark}.new").mkdir()
    with CheckpointStore(tmp_path) as store:
        store.prepare("run-a", new_run=True)
    left = os.listdir(tmp_path)
    assert set(theirs) <= set(left)
    assert not {*ours, link.name} & set(left)
    assert victim.read_text() == "precious"


def test_the_list_is_newest_first_and_ends_with_the_damaged(store):
    store.save("epoch", sample(step=30, epoch=3))
    store.save("best", sample(step=20))
    store.save("latest", sample(step=10))
    store.path_of("epoch", 1).write_bytes(b"x" * 100)
    os.mkfifo(store.path_of("epoch", 2))
    *whole, first, second = store.list()
    assert [info.step for info in whole] == [10, 20, 30]
    assert isinstance(first, UnusableCheckpoint)
    assert (first.kind, first.path) == ("epoch", store.path_of("epoch", 1))
    assert "a FIFO" in second.error


def test_newest_means_saved_last_even_when_the_clock_jumps_back(store, monkeypatch):
    clock = [2e9]
    monkeypatch.setattr("gpt_core.checkpoints.store.time", SimpleNamespace(time=lambda: clock[0]))
    store.save("epoch", sample(step=1))
    clock[0] = 1e9
    store.save("best", sample(step=2))
    store.close()
    with CheckpointStore(store.folder) as again:
        again.prepare("run-a", new_run=False)
        again.save("latest", sample(step=3))
        assert [info.step for info in again.list()] == [3, 2, 1]
        assert again.load_for_resume().checkpoint.step == 3


def test_after_a_resume_from_an_older_checkpoint_the_newest_is_of_the_new_branch(store):
    store.save("epoch", sample(step=50))
    store.save("best", sample(step=60))
    store.save("latest", sample(step=40))
    assert store.load_for_resume().checkpoint.step == 40


def test_loading_falls_back_to_the_newest_valid_checkpoint_and_lists_the_damaged_ones(store):
    store.save("epoch", sample(step=10))
    store.save("best", sample(step=20))
    store.save("latest", sample(step=30))
    assert store.load_for_resume()[1] == []
    flip_last_weight(store.path_of("latest"))
    store.path_of("best").write_bytes(store.path_of("best").read_bytes()[:500])
    info, damaged = store.load_for_resume()
    assert info.step == 10
    assert {bad.kind for bad in damaged} == {"latest", "best"}
    assert all(str(bad.path) in bad.error for bad in damaged)
    flip_last_weight(store.path_of("epoch", 1))
    assert store.load_for_resume().checkpoint is None
    assert len(store.load_for_resume().unusable) == 3


def test_the_final_model_is_resumed_last_and_one_without_optimizer_state_never(store):
    store.save("latest", sample(step=10))
    store.save("best", sample(step=20, optimizer_state=False))
    store.save("final", sample(step=20))
    assert store.load_for_resume().checkpoint.path.stem == "ckpt_latest"
    store.path_of("latest").unlink()
    assert store.load_for_resume().checkpoint.path.stem == "transformer"


def test_chat_loads_the_best_model_else_the_newest_without_optimizer_state(store):
    store.save("best", sample(step=10, optimizer_state=False))
    store.save("latest", sample(step=20))
    assert store.load_for_chat().checkpoint.path.stem == "best_model"
    store.path_of("best").unlink()
    store.save("epoch", sample(step=30))
    flip_last_weight(store.path_of("epoch", 1))  # the last weight is of the optimizer state
    assert store.load_for_chat().checkpoint.step == 30
    store.path_of("epoch", 1).write_bytes(b"damaged")
    info, damaged = store.load_for_chat()
    assert info.step == 20
    assert [bad.path for bad in damaged] == [store.path_of("epoch", 1)]


def test_candidates_are_found_by_their_headers_without_reading_tensors(store, monkeypatch):
    store.save("epoch", sample(step=10))
    store.save("best", sample(step=20))
    store.save("latest", sample(step=30))
    flip_last_weight(store.path_of("latest"))
    store.path_of("best").write_bytes(b"damaged")
    monkeypatch.setattr("gpt_core.formats.safetensors.read_tensor", None)
    listing = store.list()
    assert [info.step for info in resume_candidates(listing)] == [30, 10]
    assert [info.step for info in chat_candidates(listing)] == [30, 10]
    assert [bad.path for bad in listing if isinstance(bad, UnusableCheckpoint)] == [store.path_of("best")]
    assert CheckpointStore(store.folder / "absent").list() == []


def test_loading_reads_every_tensor_of_the_newest_checkpoint_once(store, monkeypatch):
    store.save("epoch", sample(step=10))
    store.save("latest", sample(step=30))
    read, real = [], checkpoint_module._read_tensor
    monkeypatch.setattr(
        checkpoint_module, "_read_tensor", lambda *a: (read.append((a[1].info.step, a[2])), real(*a))[1]
    )
    loaded = store.load_for_resume().checkpoint
    assert len(read) == len(set(read)) == 3 * len(loaded.parameters.tensors) + 1
    assert {step for step, _ in read} == {30}


def test_a_best_model_is_never_replaced_by_a_worse_one_of_its_run(store):
    store.save("best", sample(step=60, best_accuracy=0.35, best_step=60))
    with pytest.raises(SaveError, match=r"0\.3500, step 60.* better than 0\.3000"):
        store.save("best", sample(step=50, best_accuracy=0.30))
    assert peek_checkpoint(store.path_of("best")).step == 60
    store.save("best", sample(step=70, best_accuracy=0.36))
    assert peek_checkpoint(store.path_of("best")).step == 70
    store.path_of("best").write_bytes(b"damaged")
    store.save("best", sample(step=80, best_accuracy=0.1))
    assert verify_checkpoint(store.path_of("best")).step == 80


def test_a_save_failing_leaves_the_store_usable(store, monkeypatch):
    store.save("latest", sample(step=1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(SaveError, match="No space left on device"):
            store.save("latest", sample(step=2))
    assert read_checkpoint(store.path_of("latest")).state.step == 1
    store.save("latest", sample(step=3))
    assert read_checkpoint(store.path_of("latest")).state.step == 3
    assert names(store) == ["ckpt_latest.safetensors"]


def test_low_disk_space_is_a_warning(store, monkeypatch):
    assert store.space_warning(SETTINGS) == ""
    for free, warned in ((2 * 689_000_000, True), (2 * 690_000_000, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert bool(store.space_warning(preset("mini"))) is warned
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    assert "5 MB free, 1,380 MB needed for 2 checkpoints" in store.space_warning(preset("mini"))
    assert "6,899 MB needed for 10 checkpoints" in store.space_warning(preset("mini"), 8)
