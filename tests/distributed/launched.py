"""Runs on several ranks in processes of their own: started by mpiexec, found by their environment, and ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from gpt_core.training.events import RunStarted, StepCompleted
from gpt_core.training.metrics_log import read_metrics
from tests.distributed.processes import STARTED_BY, all_processes, end_all, environment_of, parent_of
from tests.program import PROGRAM, environment

pytest.importorskip("mpi4py")
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
if MPIEXEC is None or not Path("/proc/self/environ").exists():
    pytest.skip("mpiexec, or /proc, is not here", allow_module_level=True)

IS_OPEN_MPI = b"Open MPI" in subprocess.run([MPIEXEC, "--version"], capture_output=True, check=False).stdout
LAUNCHER = [MPIEXEC, *(("--allow-run-as-root", "--oversubscribe") if IS_OPEN_MPI else ())]
RANK = "OMPI_COMM_WORLD_RANK" if IS_OPEN_MPI else "PMI_RANK"
TIMEOUT_S = 300.0
HEARTBEAT_S = 15
SETTINGS = (
    "d_model=16", "hidden_size=24", "vocab_size=300", "num_heads=2", "seq_len=16", "layers=2", "batch_size=8",
    "micro_batch_size=1", "eval_every_steps=20", "eval_tokens=500", "sample_tokens=4", "precision=float32",
    "save_every_steps=10", "max_epochs=1000000", "patience=0", f"heartbeat_s={HEARTBEAT_S}",
)  # fmt: skip


def options(*more: str, folder: str = "models") -> list[str]:
    """Return the options of a tiny run; `more` are settings, or options where they begin with dashes."""
    words = [word for pair in SETTINGS for word in ("--set", pair)]
    for word in more:
        words += [word] if word.startswith("--") or "=" not in word else ["--set", word]
    return ["--train-only", "--models-dir", folder, *words]


class Launched:
    """A program that mpiexec has started on several ranks. Its standard output and error are one."""

    def __init__(self, size: int, *arguments: str, cwd: Path, **changes: str) -> None:
        self._sessions = sessions(cwd / "models")
        self.process = subprocess.Popen(
            [*LAUNCHER, "-n", str(size), *PROGRAM, *arguments], cwd=cwd,
            env=environment(OMP_NUM_THREADS="1", **changes), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def ranks(self) -> dict[int, int]:
        """Return the process id of each rank: of the process that trains, not of those that wait for it."""
        parents = {pid: parent for pid in all_processes() if (parent := parent_of(pid))}
        return ranks_among([pid for pid in parents if self._is_below(pid, parents)])

    def wait_for_steps(self, count: int, folder: Path) -> None:
        """Wait until the log has this many steps of this run, which is the last one in the folder."""
        expires_s = time.monotonic() + TIMEOUT_S
        while steps_after(folder, self._sessions) < count:
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < expires_s, self.kill()
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Wait for the end of the run and return the exit code of mpiexec and the output."""
        try:
            output, _ = self.process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run has not ended: {self.kill()}")
        return self.process.returncode, output

    def kill(self) -> str:
        """Kill all processes of the test, and return the output."""
        end_all(os.environ[STARTED_BY])
        return self.process.communicate()[0]

    def _is_below(self, pid: int, parents: dict[int, int]) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == self.process.pid:
                return True
        return False


def ranks_among(pids: Iterable[int]) -> dict[int, int]:
    """Return the process id of each rank among these: of the process that trains, not of those that wait for it."""
    parents = {pid: parent_of(pid) for pid in pids if _is_program(pid) and _is_program(parent_of(pid))}
    waiting = set(parents.values())
    found = {int(environment_of(pid).get(RANK, -1)): pid for pid in parents if pid not in waiting}
    return {rank: pid for rank, pid in found.items() if rank >= 0}


def sessions(folder: Path) -> int:
    """Return how often the run in a folder has been started."""
    return sum(isinstance(event, RunStarted) for event in read_metrics(folder / "metrics.jsonl"))


def steps_after(folder: Path, count: int) -> int:
    """Return the steps in the log since the run was started for more than this many times."""
    started = steps = 0
    for event in read_metrics(folder / "metrics.jsonl"):
        started += isinstance(event, RunStarted)
        steps += isinstance(event, StepCompleted) and started > count
    return steps


def run_on(size: int, *arguments: str, cwd: Path, **changes: str) -> tuple[int, str]:
    """Run the program on this many ranks, and return the exit code and the output."""
    return Launched(size, *arguments, cwd=cwd, **changes).end()


def _is_program(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"gpt_tui" in words and b"-n" not in words[:3]
