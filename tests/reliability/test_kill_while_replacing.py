"""SIGKILL at any instant of replacing another run's files: one of the two runs is complete, never a mixture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.run_files import PREVIOUS_METRICS
from gpt_core.training.metrics_log import MetricsLog, open_log, read_metrics
from tests.core.checkpoint_samples import sample
from tests.program import ROOT, TIMEOUT_S, environment
from tests.reliability.one_replacement import step

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="os.fork"), pytest.mark.slow]
OLD_LOSS = 1.0


def old_run(folder: Path) -> dict[str, bytes]:
    """Make run-a with a log of seven steps; give its files."""
    with CheckpointStore(folder) as store:
        store.prepare("run-a", new_run=True)
        log = open_log(store, "run-a", 0)
        for number in range(1, 8):
            log.append(step(number, OLD_LOSS))
        log.close()
        store.save("best", sample(step=3, best_accuracy=0.5))
        store.save("epoch", sample(step=5, epoch=2))
        store.save("latest", sample(step=7))
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder except the lock, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def killed_everywhere(folder: Path, how: str) -> list[Path]:
    """Return the folders of a run killed before each of its calls; in the last one it completed."""
    command = [sys.executable, "-m", "tests.reliability.one_replacement", how, str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return [folder / str(number) for number in range(1, int(done.stdout) + 1)]


def run_in(folder: Path) -> str:
    """Return the id of the only run whose checkpoints a reader sees before recovery; check that they are complete."""
    store = CheckpointStore(folder)
    listing = store.list()
    found, damaged = store.load_for_resume()
    assert not damaged
    assert found is not None
    assert {info.run_id for info in listing} == {found.run_id}
    chat = store.load_for_chat().checkpoint
    assert chat is not None
    assert chat.run_id == found.run_id
    return found.run_id


@pytest.mark.parametrize("how", ["save", "stop"])
def test_a_kill_at_any_call_leaves_the_old_run_or_the_new_one(
    tmp_path: Path, how: str, record_property: Callable[[str, object], None]
) -> None:
    before = old_run(tmp_path / "before")
    folders = killed_everywhere(tmp_path, how)
    record_property("count", len(folders))
    runs = []
    for folder in folders:
        run_id = run_in(folder)
        with CheckpointStore(folder) as store:
            store.prepare(run_id, new_run=False)
        after = contents(folder)
        if run_id == "run-a":
            after.pop(PREVIOUS_METRICS, None)
            assert after == before, folder.name
        else:
            assert set(after) <= {"best_model.safetensors", "ckpt_latest.safetensors", "metrics.jsonl"}, folder.name
            assert {event.loss for event in read_metrics(folder / "metrics.jsonl")} == {2.0}
        runs.append(run_id)
    assert runs == sorted(runs)
    assert runs.count("run-a") > 20
    assert (runs[-1] == "run-b") == (how == "save")
    if how == "save":
        assert runs.count("run-b") > 20


def test_a_kill_at_any_call_of_a_resume_from_an_earlier_step_keeps_the_log_until_a_save(tmp_path: Path) -> None:
    before = old_run(tmp_path / "before")
    lengths = []
    for folder in killed_everywhere(tmp_path, "back"):
        with CheckpointStore(folder) as store:
            store.prepare("run-a", new_run=False)
        after = contents(folder)
        losses = [event.loss for event in read_metrics(folder / "metrics.jsonl")]
        if after["best_model.safetensors"] == before["best_model.safetensors"]:
            assert losses == [OLD_LOSS] * 7, folder.name
        else:
            assert losses[:4] == [OLD_LOSS] * 3 + [2.0], folder.name
        lengths.append(len(losses))
    assert lengths[0] == 7
    assert lengths[-1] == 5


@pytest.mark.essential
def test_a_damaged_journal_removes_nothing(tmp_path: Path) -> None:
    before = old_run(tmp_path)
    store = CheckpointStore(tmp_path)
    store.prepare("run-b", new_run=True, overwrite=True)
    open_log(store, "run-b", 0).close()
    (tmp_path / ".replacing.json").write_bytes(b"{")
    store.close()
    after = contents(tmp_path)
    assert after.pop(PREVIOUS_METRICS) == b""
    assert after == before


@pytest.mark.essential
def test_a_journal_names_only_checkpoints_in_its_own_folder(tmp_path: Path) -> None:
    old_run(tmp_path / "models")
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    (tmp_path / "models" / "notes.txt").write_bytes(b"mine")
    named = {"../mine.safetensors": "", "notes.txt": "", "best_model.safetensors": "another run"}
    journal = json.dumps({"run_id": "run-a", "saved_at": 0, "files": named})
    (tmp_path / "models" / ".replacing.json").write_text(journal)
    before = contents(tmp_path / "models")
    with CheckpointStore(tmp_path / "models") as store:
        store.prepare("run-a", new_run=False)
    del before[".replacing.json"]
    assert contents(tmp_path / "models") == before
    assert (tmp_path / "mine.safetensors").exists()


@pytest.mark.essential
def test_a_log_without_checkpoints_is_set_aside(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl").append(step(1, OLD_LOSS))
    with CheckpointStore(tmp_path) as store:
        store.prepare("run-b", new_run=True)
        open_log(store, "run-b", 0).close()
    assert [event.loss for event in read_metrics(tmp_path / PREVIOUS_METRICS)] == [OLD_LOSS]
