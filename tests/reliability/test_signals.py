"""Signals to real runs: no announced save is lost, and a resumed run equals one without signals.

A process that has not printed its first event yet may be ended by the signal itself: it has nothing to save.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_tui.cli.verify_resume import compared
from tests.program import write_texts
from tests.reliability.counts import SHARE, count
from tests.reliability.faulty_calls import faulty
from tests.reliability.runs import LATEST, Headless, require_valid_checkpoints, run_to_completion, training

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="POSIX signals")]


def signalled_run(folder: Path, draw: random.Random, settings: list[str]) -> None:
    """Start or resume a run, send it signals at random instants, and compare its checkpoints with its announcements."""
    models = folder / "models"
    resume = ["--resume"] if (folder / LATEST).exists() else []
    with Headless(*settings, *resume, cwd=folder) as run:
        is_started = draw.random() < 0.8
        if is_started:
            run.wait_for(lambda: run.events)
        time.sleep(draw.random() * 0.3)
        for _ in range(draw.choice((0, 0, 1, 2)) if is_started else 0):
            run.send(signal.SIGUSR1)
            time.sleep(draw.random() * 0.1)
        stop = signal.Signals[draw.choice((*STOPPING, "SIGKILL"))]
        sent = [stop]
        run.send(stop)
        if draw.random() < 0.5:
            time.sleep(draw.random() * 0.1)
            sent.append(signal.Signals[draw.choice(STOPPING)])
            run.send(sent[-1])
        code = run.end()
    require_valid_checkpoints(models, run.events)
    if is_started and stop is not signal.SIGKILL:
        # Python handles the pending signal with the lower number first
        assert code in {128 + number for number in sent if number <= stop}
        assert "Traceback" not in run.errors
        assert run.events[-1] == {"event": "finished", "reason": "stopped", "step": run.steps}
        assert [event for event in run.events if event["event"] == "saved"][-1]["step"] == run.steps
    elif not is_started:
        assert code in (
            128 + stop,
            *(-number for number in sent),
            1,
        )  # 1: Python itself, before the program runs


def test_signals_at_random_instants_lose_and_change_nothing(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    signals = count(5, 500)
    record_property("count", signals)
    draw = random.Random(8)
    settings = training("save_every_steps=1", "eval_every_steps=7", "save_epoch_number=20")
    for _ in range(signals):
        signalled_run(folder, draw, settings)
    reached, _ = CheckpointStore(folder / "models").load_for_resume()
    last = str(reached.step + 10 if reached else 10)
    end = run_to_completion(*settings, *(["--resume"] if reached else []), "--max-steps", last, cwd=folder)
    assert end.code == 0, end.errors
    other = folder / "without signals"
    other.mkdir()
    write_texts(other)
    uninterrupted = run_to_completion(*training("eval_every_steps=7"), "--max-steps", last, cwd=other)
    assert uninterrupted.code == 0, uninterrupted.errors
    assert [row for row in compared(other / "models", folder / "models") if not row.equal] == []


def test_a_signal_at_any_instant_of_startup_ends_the_program_without_a_crash(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    signals = count(10, 1000)
    record_property("count", signals)
    draw = random.Random(9)
    settings = training("save_every_steps=1")
    with Headless(*settings, cwd=folder) as run:
        started = time.monotonic()
        run.wait_for(lambda: run.events)
        start_s = time.monotonic() - started
    for _ in range(signals):
        with Headless(*settings, "--overwrite", cwd=folder) as run:
            time.sleep(draw.random() * start_s)
            sent = [signal.Signals[draw.choice(STOPPING)] for _ in range(draw.choice((1, 2)))]
            for number in sent:
                run.send(number)
                time.sleep(draw.random() * 0.05)
            code = run.end()
            assert code in (*(128 + number for number in sent), *(-number for number in sent), 1), run.errors
            # 1: Python itself, before the program runs
            assert code != 1 or not re.search(r"[/\\\\]gpt_(core|tui)[/\\\\]", run.errors), run.errors


@pytest.mark.parametrize("name", STOPPING if SHARE else ["SIGINT"])
def test_a_signal_during_a_save_completes_it_and_a_second_one_waits_only_for_it(folder: Path, name: str) -> None:
    models = folder / "models"
    slow_disk = faulty("fsync", "4", "8s")  # the first three sync the probe and the log
    with Headless(*training("save_every_steps=0"), cwd=folder, before=slow_disk) as run:
        run.wait_for_step(1)
        run.send(signal.SIGUSR1)
        run.wait_for(lambda: any(path.stat().st_size > 10_000 for path in models.glob(".ckpt_latest.*.new")))
        run.wait_for_step(run.steps + 20)  # steps after the one that is being saved
        for _ in range(2):
            assert not any(event.get("kind") == "latest" for event in run.events)
            run.send(signal.Signals[name])
            time.sleep(2.5)  # longer than the time in which signals count as one, even if handled late
        assert run.end() == 128 + signal.Signals[name]
    require_valid_checkpoints(models, run.events)
    assert verify_checkpoint(folder / LATEST).step < run.steps  # the second signal skips the save at the end
    assert (run.events[-1]["event"] == "finished") != ("exited at once" in run.errors)


def test_repeated_save_requests_are_all_honored_and_none_stops_the_run(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    requests = count(30, 500)
    record_property("count", requests)
    draw = random.Random(1)

    def saves() -> int:
        return run.out.count('"kind":"latest"')

    with Headless(*training("save_every_steps=0"), cwd=folder) as run:
        run.wait_for_step(1)
        for number in range(requests):
            before = saves()
            run.send(signal.SIGUSR1)
            time.sleep(draw.random() * 0.02)
            if number % 3 == 2:  # requests in quick succession may be merged into one save after the last of them
                run.wait_for(lambda: saves() > before)  # noqa: B023
        reached = run.steps
        run.wait_for_step(reached + 20)
        assert run.stop() == 130
    require_valid_checkpoints(folder / "models", run.events)
