"""SIGKILL at random instants of a save: every checkpoint is valid, and no announced save is lost."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.formats.checkpoint import verify_checkpoint
from tests.core.checkpoint_samples import SETTINGS, sample
from tests.program import TIMEOUT_S
from tests.reliability.counts import count

KILLS = count(8, 1000)
KINDS = ("latest", "best", "latest", "epoch", "latest", "final")
MAX_MB = 2.5


def save_for_ever(folder, first_step):
    """Save repeatedly in a child process, announcing each completed save."""
    import msgspec

    settings = msgspec.structs.replace(SETTINGS, d_model=64, hidden_size=256, num_heads=4, layers=3, seq_len=32)
    written = sample(settings)
    with CheckpointStore(folder) as store:
        store.prepare("run-a", new_run=False)
        for step in range(first_step, sys.maxsize):
            kind = KINDS[step % len(KINDS)]
            written.state.step = step
            written.state.epoch = step // 50
            written.state.best_accuracy = step * 1e-6
            written.parameters.flat[0] = step  # makes every save different
            store.save(kind, written)
            print(kind, step, flush=True)


def kill_one(folder, first_step, delay_s):
    """Start a child that saves, kill it `delay_s` after its first announcement, and return all announcements."""
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, str(folder), str(first_step)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    first = child.stdout.readline()
    assert first, "the child could not save"
    time.sleep(delay_s)
    child.kill()
    rest, _ = child.communicate(timeout=TIMEOUT_S)
    lines = [first, *rest.splitlines(keepends=True)]
    return [(line.split()[0], int(line.split()[1])) for line in lines if line.endswith("\n")]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_kill_at_any_instant_of_a_save_loses_no_announced_save(tmp_path, record_property):
    draw = random.Random(4)
    step, resumable, leftovers = 0, 0, 0
    tries = 0
    while tries < KILLS or not leftovers:
        tries += 1
        assert tries <= 20 * KILLS, "no kill fell into a save: the test shows nothing"
        announced = kill_one(tmp_path, step, draw.random() * 0.1)
        step = announced[-1][1]
        newest = {kind: number for kind, number in announced if kind != "epoch"}
        published = sorted(tmp_path.glob("*.safetensors"))
        for path in published:
            info = verify_checkpoint(path)
            assert info.step >= newest.get(info.kind, 0)
            assert info.size < MAX_MB * 1e6
        leftovers += sum(name.startswith(".") and name != ".lock" for name in os.listdir(tmp_path))
        with CheckpointStore(tmp_path) as store:
            found, damaged = store.load_for_resume()
            assert not damaged
            assert found is not None
            resumable = max([resumable, *(number for kind, number in announced if kind != "final")])
            assert found.step >= resumable
            store.prepare("run-a", new_run=False)
            assert sorted(os.listdir(tmp_path)) == sorted([".lock", *(path.name for path in published)])
        step += 1
    record_property("count", tries)


if __name__ == "__main__":
    save_for_ever(sys.argv[1], int(sys.argv[2]))
