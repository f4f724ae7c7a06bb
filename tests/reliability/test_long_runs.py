"""What must not grow while a run goes on: memory, open files, threads. And a disk that is too small for the run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import PROGRAM
from tests.reliability.counts import count
from tests.reliability.runs import Headless, require_whole, run_to_its_end, training


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_thousands_of_steps_with_saves_and_evaluations_leave_memory_files_and_threads_flat(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    steps = count(4000, 1_000_000)
    settings = training("save_every_steps=100", "eval_every_steps=50", "debug=true", "debug_every=500")
    with Headless(*settings, "--max-steps", str(steps), cwd=folder) as run:
        seen: list[tuple[int, int, int]] = []
        while run.process.poll() is None:
            if steps // 4 <= run.last_step < steps * 0.95:
                seen.append(taken_of_the_machine(run.process.pid))
            time.sleep(0.02 + steps * 1e-6)
    assert run.code == 0, run.errors
    assert len(seen) >= 8
    half = len(seen) // 2
    before, after = ([max(column) for column in zip(*part, strict=True)] for part in (seen[:half], seen[half:]))
    record_property("count", f"{steps:,} steps")
    record_property("seen", f"at most {before[0]:,} kB resident in the first half, {after[0]:,} kB in the second")
    assert after[0] <= before[0] * 1.01 + 300
    # a file is open for a moment while a checkpoint is written: what is left behind shows in the least there ever is
    least_before, least_after = (
        [min(column) for column in zip(*part, strict=True)] for part in (seen[:half], seen[half:])
    )
    assert least_after[1] <= least_before[1]
    assert least_after[2] <= least_before[2]
    require_whole(folder / "models", run.events)


def taken_of_the_machine(pid: int) -> tuple[int, int, int]:
    """Resident memory in kB, open files and threads of a process."""
    process = Path("/proc") / str(pid)
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]), len(list((process / "fd").iterdir())), int(fields["Threads"])


def on_a_disk_of(kilobytes: int, command: str) -> list[str]:
    """A command line that runs a shell command with `models` on a disk of its own; skips the test where that fails."""
    unshare = shutil.which("unshare")
    mount = f"mkdir -p models && mount -t tmpfs -o size={kilobytes}k none models"
    if not unshare or subprocess.run([unshare, "-m", "sh", "-c", "mount -t tmpfs none /mnt"], check=False,
                                     capture_output=True).returncode:  # fmt: skip
        pytest.skip("a small disk cannot be mounted here")
    return [unshare, "-m", "sh", "-c", f"{mount} && {command}", "sh", *PROGRAM]


def test_a_full_disk_is_warned_of_and_told_and_training_goes_on_with_whole_files(folder: Path) -> None:
    # room for one checkpoint of 95 kB and a log, not for two
    command = '"$@"; code=$?; cp models/* .; exit $code'
    small_disk = on_a_disk_of(150, command)
    options = training("save_every_steps=5", "eval_every_steps=5")
    with Headless(*options, "--max-steps", "40", cwd=folder, before=tuple(small_disk[: -len(PROGRAM)])) as run:
        code = run.end()
    assert "MB wanted for two checkpoints; make room" in run.errors
    failed = [event for event in run.events if event["event"] == "save_failed"]
    assert failed
    assert all("No space left on device" in event["error"] for event in failed)
    assert code == 1  # the last save failed
    assert run.steps == 40
    require_whole(folder, run.events)


def test_a_models_folder_that_cannot_be_made_or_written_is_refused_before_the_first_step(folder: Path) -> None:
    (folder / "file").write_text("x")
    for place in ("file", "file/models", "/proc/models", "/dev/null", "x" * 300):
        run = run_to_its_end(*training(), "--models-dir", place, cwd=folder)
        assert run.code == 2, place
        assert run.events == []
        assert run.errors.startswith("gpt-tui: models_dir: ")
        assert run.errors.count("\n") == 1
