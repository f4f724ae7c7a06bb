"""Texts of a tiny run, signal handlers, and reading the events of a run in another process."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.program import write_texts

LATEST = Path("models/ckpt_latest.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a training text and an evaluation text."""
    write_texts(tmp_path)
    return tmp_path


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers of this process after the test."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def run_until(process: subprocess.Popen[str], condition: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    """Return the first event of a --json run that meets the condition."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, object] = json.loads(line)
        if condition(event):
            return event
    raise AssertionError(f"the run ended first: {process.communicate()[1]}")


def step_of(event: dict[str, object]) -> int:
    """Return the number of the completed step; -1 for other events."""
    return int(str(event["step"])) if event["event"] == "step" else -1
