"""The app on a pseudo terminal with a real run: quitting during a save, quitting twice, resizing, suspending."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics_log import read_metrics
from gpt_tui.cli.verify_resume import compared
from tests.program import Terminal, tiny, write_texts
from tests.reliability.counts import count
from tests.reliability.faulty_calls import faulty
from tests.reliability.runs import ENDLESS, LATEST, run_to_completion, training

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="pseudo terminals")]
RESTORED = "\x1b[?1049l"  # leaves the alternate screen
SLOW_DISK = faulty("fsync", "4", "2s")  # the first three sync the probe and the log
LATER_S = 1.1  # longer than the time in which presses count as one


def app(folder: Path, *more: str, before: tuple[str, ...] = (), **changes: str) -> Terminal:
    """Start the app, in which a run starts without a key press."""
    return Terminal("--overwrite", *tiny(*ENDLESS, *more), cwd=folder, before=before, **changes)


def until_it_saves(terminal: Terminal, folder: Path) -> None:
    """Request a save, and wait until it is in progress."""
    log = folder / "models/metrics.jsonl"
    terminal.read_on(lambda: log.exists() and b'"event":"step"' in log.read_bytes())
    terminal.process.send_signal(signal.SIGUSR1)
    terminal.read_on(lambda: any(path.stat().st_size > 10_000 for path in log.parent.glob(".ckpt_latest.*.new")))


def is_stopped(pid: int) -> bool:
    """Return True if a child process is suspended."""
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


def last_step(folder: Path) -> int:
    """Return the last step in the log of a run."""
    events = read_metrics(folder / "models/metrics.jsonl")
    return max(event.step for event in events if isinstance(event, StepCompleted))


@pytest.mark.parametrize("keys", ["\x03", "qs"], ids=["ctrl+c", "save and quit"])
def test_quitting_the_app_during_a_save_completes_it_and_saves_the_last_step(folder: Path, keys: str) -> None:
    terminal = app(folder, before=SLOW_DISK)
    until_it_saves(terminal, folder)
    for key in keys:
        terminal.type(key)
        if key == "q":
            terminal.read_until("Quit gpt-tui?")
    assert terminal.end() == (130 if keys == "\x03" else 0)
    assert RESTORED in terminal.shown
    assert verify_checkpoint(folder / LATEST).step == last_step(folder)


def test_quitting_the_app_twice_waits_only_for_a_save_in_progress(folder: Path) -> None:
    terminal = app(folder, before=SLOW_DISK)
    until_it_saves(terminal, folder)
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until("saving, then")
    terminal.read_for(LATER_S)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert RESTORED in terminal.shown
    assert verify_checkpoint(folder / LATEST).step <= last_step(folder)
    assert not list((folder / "models").glob(".*.new"))


def test_resizing_and_suspending_the_app_leaves_the_run_bit_identical(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    resizes = count(20, 1000)
    record_property("count", f"{resizes:,} resizes from 1x1 to 500x500")
    draw = random.Random(3)
    terminal = app(folder, "eval_every_steps=50", COLUMNS="", LINES="")
    log = folder / "models/metrics.jsonl"
    terminal.read_on(lambda: log.exists() and b'"event":"step"' in log.read_bytes())
    sizes = [(1, 1), (500, 500), *((draw.randint(1, 500), draw.randint(1, 500)) for _ in range(resizes - 2))]
    for number, (rows, columns) in enumerate(sizes):
        terminal.resize(rows, columns)
        terminal.read_for(draw.random() * 0.1)
        terminal.shown = ""
        if number in (5, 15):
            terminal.process.send_signal(signal.SIGTSTP)
            terminal.read_on(lambda: is_stopped(terminal.process.pid))  # as a shell does
            assert RESTORED in terminal.shown
            terminal.process.send_signal(signal.SIGCONT)
    terminal.resize(24, 80)
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    other = folder / "headless"
    other.mkdir()
    write_texts(other)
    settings = [*training("eval_every_steps=50"), "--max-steps", str(last_step(folder) + 10)]
    for place, resume in ((folder, ["--resume"]), (other, [])):  # suspending may have ended an evaluation early
        run = run_to_completion(*settings, *resume, cwd=place)
        assert run.code == 0, run.errors
    assert [row for row in compared(other / "models", folder / "models") if not row.equal] == []
