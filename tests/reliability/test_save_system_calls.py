"""SIGKILL before each system call of a save, one trial per call; and disk errors during a complete run.

`strace` kills the process. Without strace these tests are skipped; `test_kill_while_saving` and `test_disk_errors` do
not need it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.formats.checkpoint import verify_checkpoint, write_checkpoint
from tests.core.checkpoint_samples import sample
from tests.program import ROOT, TIMEOUT_S, environment
from tests.reliability.counts import SHARE, count
from tests.reliability.faulty_calls import faulty
from tests.reliability.one_save import KINDS
from tests.reliability.runs import needs_strace, require_valid_checkpoints, run_process, training

pytestmark = pytest.mark.slow

OF_A_SAVE = ("openat", "write", "fsync", "close", "link", "linkat", "rename", "renameat", "renameat2", "unlink")


def save_traced(folder: Path, *options: str) -> list[str]:
    """Save step 2 over checkpoints of step 1 under strace, and return the announced kinds."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    store = CheckpointStore(folder)
    for kind in KINDS:
        write_checkpoint(store.path_of(kind, 1), sample(step=1, best_accuracy=0.1))
    command = [sys.executable, "-m", "tests.reliability.one_save", str(folder), "2"]
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        tracer = subprocess.Popen(
            [needs_strace(), "-p", str(child.pid), *options], stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        with tracer:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            child.stdin.write("go\n")
            child.stdin.close()
            announced = child.stdout.read()
            child.wait(TIMEOUT_S)
    return announced.split()


def calls_of_a_save(folder: Path) -> Counter[str]:
    """Return the number of calls of a save per system call."""
    log = folder / "calls.txt"
    assert save_traced(folder, "-o", str(log)) == list(KINDS)
    return Counter(re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE))


def chosen_calls(calls: Counter[str]) -> list[tuple[str, int]]:
    """Return all calls, or an evenly spaced subset of the requested size; by default the last writes and two more."""
    if not SHARE:
        return [(name, calls[name]) for name in OF_A_SAVE if name in calls] + [("write", 1), ("rename", 1)]
    every = [(name, number) for name, most in calls.items() for number in range(1, most + 1)]
    return every[:: max(1, len(every) // count(1, len(every)))]


def test_a_kill_at_any_system_call_of_a_save_loses_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    needs_strace()
    models = tmp_path / "models"
    models.mkdir()
    store = CheckpointStore(models)
    chosen = chosen_calls(calls_of_a_save(tmp_path))
    record_property("count", len(chosen))
    killed = 0
    for name, number in chosen:
        announced = save_traced(models, "-o", "/dev/null", "-e", f"inject={name}:signal=KILL:when={number}")
        killed += announced != list(KINDS)
        for kind in KINDS:
            info = verify_checkpoint(store.path_of(kind, 1))
            assert info.step == 2 if kind in announced else info.step in (1, 2), (name, number)
        found, damaged = store.load_for_resume()
        assert not damaged
        assert found is not None
        assert found.step == 2 or not announced
        store.prepare("run-a", new_run=False)
        store.close()
        assert sorted(path.name for path in models.iterdir()) == [
            ".lock", "best_model.safetensors", "ckpt_latest.safetensors", "epoch_001.safetensors",
        ]  # fmt: skip
    assert killed > len(chosen) / 3


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_run_that_cannot_save_reports_it_and_continues_and_saves_again_later(
    folder: Path, call: str, error: str
) -> None:
    # the first fsyncs of the program sync its probe and its log
    first = {"fsync": "4", "replace": "1"}[call]
    before = faulty(call, first, error)
    run = run_process(*training("save_every_steps=5"), "--max-steps", "20", cwd=folder, before=before)
    assert run.code == 0, run.errors
    events = [(event["event"], event["step"]) for event in run.events if event["event"] in ("saved", "save_failed")]
    assert events[0][0] == "save_failed"
    # the last step is saved before and after its evaluation, which is the best one
    assert list(dict.fromkeys(events[1:])) == [("saved", step) for step in (5, 10, 15, 20) if step > events[0][1]]
    require_valid_checkpoints(folder / "models", run.events)
