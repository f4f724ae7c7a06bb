"""Long runs: memory, open files and threads do not grow. And a disk that is too small for the run."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import verify_checkpoint
from tests.program import PROGRAM, ROOT, environment
from tests.reliability.counts import SHARE, count
from tests.reliability.runs import Headless, require_valid_checkpoints, resource_usage, run_to_completion, training

pytestmark = pytest.mark.slow

ALLOCATED_AT_ONCE_KB = 1024  # by Python's allocator
THREADS_SCRATCH_KB = 3 * 3584  # of products, for each thread that computes: the heap keeps it once threads have met


def require_flat(seen: list[tuple[int, ...]], spare_kb: int = ALLOCATED_AT_ONCE_KB) -> str:
    """Check that a process used no more in the second half of a run than in the first; return its peak memory as text.

    Peak resident memory may grow by 1% and by one allocation, `spare_kb`. Saving a checkpoint opens a file and starts a
    thread for a moment, so a leak of either shows in the minimum.
    """
    assert len(seen) >= 8
    half = len(seen) // 2
    before, after = (list(zip(*part, strict=True)) for part in (seen[:half], seen[half:]))
    memory = max(before[0]), max(after[0])
    assert memory[1] <= memory[0] * 1.01 + spare_kb
    assert min(after[1]) <= min(before[1])
    assert min(after[2]) <= min(before[2])
    return f"at most {memory[0]:,} kB resident in the first half, {memory[1]:,} kB in the second"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_thousands_of_steps_with_saves_and_evaluations_leave_memory_files_and_threads_flat(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    steps = count(4000, 1_000_000)
    settings = training("save_every_steps=100", "eval_every_steps=50", "debug=true", "debug_every=500")
    with Headless(*settings, "--max-steps", str(steps), cwd=folder) as run:
        seen: list[tuple[int, ...]] = []
        while run.process.poll() is None:
            if steps // 4 <= run.last_step < steps * 0.95:
                with contextlib.suppress(OSError, KeyError):  # it has just ended
                    seen.append(resource_usage(run.process.pid))
            time.sleep(0.02 + steps * 1e-6)
    assert run.code == 0, run.errors
    record_property("count", f"{steps:,} steps")
    record_property("seen", require_flat(seen))
    require_valid_checkpoints(folder / "models", run.events)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_soak_with_saves_evaluations_chat_and_pauses_leaves_memory_files_and_threads_flat(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    steps = count(60_000, 1_000_000)
    command = [sys.executable, "-m", "tests.reliability.soak", str(folder), str(steps)]
    soak = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert soak.returncode == 0, soak.stderr
    *lines, last = soak.stdout.splitlines()
    seen = [tuple(map(int, line.split())) for line in lines]
    assert seen[-1][0] > steps * 0.9
    done = json.loads(last)
    assert not done.get("replies that failed")
    assert min(done.get(what, 0) for what in ("pauses", "requested saves", "requested evaluations", "replies")) > 10
    record_property("count", f"{steps:,} steps")
    looks = [tuple(rest) for step, *rest in seen if steps // 4 <= step < steps * 0.95]
    # a million steps have all of that behind them in their first half: there the bound is the strict one
    flat = require_flat(looks, ALLOCATED_AT_ONCE_KB if SHARE >= 1 else THREADS_SCRATCH_KB)
    record_property("seen", f"{flat}; {', '.join(f'{number} {what}' for what, number in done.items())}")
    for path in (folder / "models").glob("*.safetensors"):
        verify_checkpoint(path)


def on_a_disk_of(kilobytes: int, command: str) -> list[str]:
    """A command line that runs a shell command with `models` on a disk of its own; skips the test where that fails."""
    unshare = shutil.which("unshare")
    mount = f"mkdir -p models && mount -t tmpfs -o size={kilobytes}k none models"
    if not unshare or subprocess.run([unshare, "-m", "sh", "-c", "mount -t tmpfs none /mnt"], check=False,
                                     capture_output=True).returncode:  # fmt: skip
        pytest.skip("a small disk cannot be mounted here")
    return [unshare, "-m", "sh", "-c", f"{mount} && {command}", "sh", *PROGRAM]


def test_a_full_disk_is_reported_and_training_continues_with_valid_files(folder: Path) -> None:
    # room for one checkpoint of 95 kB and a log, not for two
    command = '"$@"; code=$?; cp models/* .; exit $code'
    small_disk = on_a_disk_of(150, command)
    options = training("save_every_steps=5", "eval_every_steps=5")
    with Headless(*options, "--max-steps", "40", cwd=folder, before=tuple(small_disk[: -len(PROGRAM)])) as run:
        code = run.end()
    assert "MB needed for 2 checkpoints; free some disk space" in run.errors
    failed = [event for event in run.events if event["event"] == "save_failed"]
    assert failed
    assert all("No space left on device" in event["error"] for event in failed)
    assert code == 1  # the last save failed in the models folder
    assert run.steps == 40
    saved = [event for event in run.events if event["event"] == "saved"]
    *in_models, before_evaluation, at_end = saved
    require_valid_checkpoints(folder, in_models)
    assert before_evaluation == at_end
    assert at_end["step"] == 40
    require_valid_checkpoints(Path(at_end["path"]).parent, [at_end])


def test_a_models_folder_that_cannot_be_made_or_written_is_refused_before_the_first_step(folder: Path) -> None:
    (folder / "file").write_text("x")
    for place in ("file", "file/models", "/proc/models", "/dev/null", "x" * 300):
        run = run_to_completion(*training(), "--models-dir", place, cwd=folder)
        assert run.code == 2, place
        assert run.events == []
        assert run.errors.startswith("gpt-tui: --models-dir: ")
        assert run.errors.count("\n") == 1
