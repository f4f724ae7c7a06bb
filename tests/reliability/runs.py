"""Headless runs in separate processes: their output, their files, and checks that these are complete."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_tui.cli import main as cli
from tests.program import PROGRAM, TIMEOUT_S, environment, tiny
from tests.reliability.counts import SHARE

Event = dict[str, Any]
LATEST = Path("models/ckpt_latest.safetensors")
# a run that only a signal ends; one thread, so that several can run in parallel
ENDLESS = ("max_epochs=1000000", "patience=0", "epsilon=0", "threads=1", "save_every_minutes=0", "save_epoch_number=0")

_numbers = itertools.count()


def training(*more: str) -> list[str]:
    """Return the options of an endless tiny run that prints JSON."""
    return ["--train-only", "--json", *tiny(*ENDLESS, *more)]


def needs_strace() -> str:
    """Return the path of strace; skip the test if it is not installed or may not trace."""
    found = shutil.which("strace")
    if not found:
        pytest.skip("strace is not installed")
    if subprocess.run([found, "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    return found


class Output:
    """Output of a run of the program, and its exit code, which is None until it has ended."""

    out = ""
    errors = ""
    code: int | None = None

    @property
    def events(self) -> list[Event]:
        """The events in the complete lines of standard output, as printed with --json."""
        return [json.loads(line) for line in self.out.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def steps(self) -> int:
        """The last step that was printed."""
        return max((event["step"] for event in self.events), default=0)


class InProcess(Output):
    """The program, run to completion in this process, which takes a tenth of the time."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            self.code = cli.main(arguments)
        self.out, self.errors = out.getvalue(), errors.getvalue()


class Headless(Output):
    """A process of the program whose output goes to files, so that it never blocks on a reader."""

    def __init__(self, *arguments: str, cwd: Path, before: tuple[str, ...] = ()) -> None:
        self.cwd = cwd
        number = next(_numbers)
        self._out, self._err = cwd / f"{number}.out", cwd / f"{number}.err"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [*before, *PROGRAM, *arguments], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL,
                stdout=out, stderr=err,
            )  # fmt: skip
        self.peak_kb = 0

    def __enter__(self) -> Headless:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        with contextlib.suppress(ChildProcessError):
            self.process.wait()

    @property
    def code(self) -> int | None:  # type: ignore[override]
        """Its exit code."""
        return self.process.returncode

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Standard error so far."""
        return self._err.read_text(encoding="utf-8", errors="replace")

    @property
    def out(self) -> str:  # type: ignore[override]
        """Standard output so far."""
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def last_step(self) -> int:
        """The last step that was printed, found at the end of a long output."""
        with open(self._out, "rb") as file:
            file.seek(max(0, os.path.getsize(self._out) - 4096))
            steps = re.findall(rb'"step":(\d+)', file.read())
        return int(steps[-1]) if steps else 0

    def wait_for(self, is_there: Callable[[], object]) -> None:
        """Wait until the condition holds, while the process runs."""
        deadline = time.monotonic() + TIMEOUT_S
        while not is_there():
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> None:
        """Wait until this step is printed."""
        self.wait_for(lambda: self.steps >= step)

    def end(self) -> int:
        """Wait for the process and return its exit code; `peak_kb` is then its peak memory."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            self.peak_kb = max(self.peak_kb, peak_memory_kb(self.process.pid))
            assert time.monotonic() < deadline, "the process did not end in time"
            time.sleep(0.01)
        return self.process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal, also to a process that has just ended."""
        os.kill(self.process.pid, number)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop the process with a signal and return its exit code."""
        self.send(number)
        return self.end()


def peak_memory_kb(pid: int) -> int:
    """Return the peak memory of a running process; 0 where /proc does not hold it.

    `ru_maxrss` of an ended child is no substitute: it includes the memory of the test run that forked it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0


def resource_usage(pid: int | str) -> tuple[int, int, int]:
    """Return resident memory in kB, open files and threads of a process."""
    process = Path("/proc") / str(pid)
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]), len(list((process / "fd").iterdir())), int(fields["Threads"])


def run_to_completion(*arguments: str, cwd: Path) -> Output:
    """Run the program to completion: in this process for short counts, in a separate one for full counts."""
    return run_process(*arguments, cwd=cwd) if SHARE else InProcess(*arguments, cwd=cwd)


def run_process(*arguments: str, cwd: Path, before: tuple[str, ...] = ()) -> Headless:
    """Run the program to completion in a separate process, with `before` as prefix of the command line."""
    with Headless(*arguments, cwd=cwd, before=before) as run:
        run.end()
    return run


def require_valid_checkpoints(folder: Path, announced: list[Event]) -> None:
    """Check that all checkpoints are valid, and that a resume starts at or after the last announced save."""
    for path in folder.glob("*.safetensors"):
        verify_checkpoint(path)
    found, damaged = CheckpointStore(folder).load_for_resume()
    assert not damaged
    saved = [event["step"] for event in announced if event["event"] == "saved"]
    if saved:
        assert found is not None
        assert found.step >= max(saved)


def require_one_line(run: Output, code: int, *parts: str) -> None:
    """Check that the run ended with this exit code and one line of error that contains all of `parts`."""
    assert run.code == code, run.errors
    lines = [line for line in run.errors.splitlines() if line.startswith("gpt-tui: ")]
    assert len(lines) == 1, run.errors
    assert "Traceback" not in run.errors
    assert lines[0].isprintable()
    for part in parts:
        assert part in lines[0]
