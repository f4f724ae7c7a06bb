"""Signals during a headless run, and a closed output pipe."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gpt_core.distributed.communicator import SINGLE_PROCESS
from gpt_core.errors import InputError
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.training.controls import TrainingControls
from gpt_tui.cli import main as cli
from gpt_tui.headless import signals as run_signals
from gpt_tui.headless.signals import RunSignals
from gpt_tui.shared.interrupts import Interrupted
from tests.headless.conftest import LATEST, run_until, step_of
from tests.program import TIMEOUT_S, start_program, tiny


def endless(folder: Path) -> subprocess.Popen[str]:
    """Start a --json run that ends only when it is stopped."""
    settings = tiny("max_epochs=1000000", "patience=0", "epsilon=0")
    return start_program("--train-only", "--json", *settings, cwd=folder)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_and_stops_the_run_and_sets_the_exit_code(name: str, code: int, folder: Path) -> None:
    with endless(folder) as process:
        run_until(process, lambda event: step_of(event) == 5)
        process.send_signal(signal.Signals[name])
        process.send_signal(signal.Signals[name])
        saved = run_until(process, lambda event: event.get("kind") == "latest")
        finished = run_until(process, lambda event: event["event"] == "finished")
        assert process.wait(TIMEOUT_S) == code
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said
        assert f"\nstopped: {finished['step']} steps in " in f"\n{said}"
    assert (finished["reason"], finished["step"]) == ("stopped", saved["step"])
    assert verify_checkpoint(folder / LATEST).step == saved["step"]


def test_sigusr1_saves_and_training_continues(folder: Path) -> None:
    with endless(folder) as process:
        run_until(process, lambda event: event["event"] == "step")
        process.send_signal(signal.SIGUSR1)
        saved = run_until(process, lambda event: event.get("kind") == "latest")
        assert verify_checkpoint(folder / LATEST).step >= int(str(saved["step"]))
        run_until(process, lambda event: step_of(event) > int(str(saved["step"])))
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("command", ["train", "race"])
def test_sigusr1_before_there_is_a_run_to_save_has_no_effect(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(*_: object) -> None:  # as the measurement for a time budget, which takes long
        assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
        signal.raise_signal(signal.SIGUSR1)
        raise InputError("the command has continued")

    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    monkeypatch.setattr(f"gpt_tui.cli.{command}.requested_settings", request)
    assert cli.main([command]) == InputError.exit_code


@pytest.mark.parametrize(
    ("command", "begun", "name", "code"),
    [
        ("verify-resume", "gpt-tui-verify-resume-*/uninterrupted/metrics.jsonl", "SIGTERM", 143),
        ("bench", "gpt-tui-bench-*/*.jsonl", "SIGHUP", 129),
    ],
)
def test_a_signal_that_ends_a_command_removes_its_temporary_folder(
    command: str, begun: str, name: str, code: int, folder: Path
) -> None:
    temporary = folder / "temporary"
    temporary.mkdir()
    settings = tiny("max_epochs=1000000", "patience=0", "epsilon=0")
    with start_program(command, "--steps", "1000000", *settings, cwd=folder, TMPDIR=str(temporary)) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not any(temporary.glob(begun)) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.Signals[name])
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (code, "")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(name: str, folder: Path) -> None:
    """nohup ignores SIGHUP in the program; a shell without job control ignores SIGINT in background programs."""
    number = signal.Signals[name]
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        process = endless(folder)
    finally:
        signal.signal(number, previous)
    with process:
        at = run_until(process, lambda event: event["event"] == "step")
        process.send_signal(number)
        run_until(
            process, lambda event: event["event"] == "step" and int(str(event["step"])) > int(str(at["step"])) + 50
        )
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 143


def test_a_closed_output_pipe_saves_and_stops_the_run_in_one_line(folder: Path) -> None:
    with endless(folder) as process:
        run_until(process, lambda event: event["event"] == "step")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == 1
        assert process.stderr.read() == (
            "gpt-tui: the reader of standard output closed it, so training stopped; the run is saved in "
            "models/ckpt_latest.safetensors\n"
        )
    assert verify_checkpoint(folder / LATEST).step >= 1


class FakeTrainer:
    def __init__(self) -> None:
        self.requests = TrainingControls()
        self.saving = self.ending = False


@pytest.mark.usefixtures("handlers")
def test_a_later_second_signal_exits_at_once_after_any_save_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, left, trainer = [100.0], [], FakeTrainer()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_signals, "leave_now", lambda code, _end: left.append(code))
    with RunSignals() as signals:
        signals.watch(trainer)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        assert (trainer.requests.stopping, trainer.requests.discarding, left) == (True, False, [])
        now[0] += 0.1
        signal.raise_signal(signal.SIGTERM)
        assert left == []
        now[0] += 5.0
        trainer.saving, waited = True, []

        def write_for(seconds: float) -> None:
            waited.append(seconds)
            trainer.saving = len(waited) < 3

        monkeypatch.setattr(time, "sleep", write_for)
        trainer.ending = True  # no step is left to wait for
        signal.raise_signal(signal.SIGINT)
        assert (len(waited), left, trainer.requests.discarding) == (3, [], True)
        trainer.ending = False
        signal.raise_signal(signal.SIGINT)
        assert left == [143]
        assert signals.exit_code == 143


@pytest.mark.usefixtures("handlers")
def test_a_later_second_signal_ends_the_ranks_through_their_communicator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, left = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(SINGLE_PROCESS, "leave", left.append, raising=True)
    with RunSignals(SINGLE_PROCESS) as signals:
        signals.watch(FakeTrainer())  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        now[0] += 5.0
        signal.raise_signal(signal.SIGTERM)
    assert left == [143]


@pytest.mark.usefixtures("handlers")
def test_signal_handlers_are_restored_and_signals_after_a_stop_are_ignored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with RunSignals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Interrupted), RunSignals():
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_a_signal_before_the_trainer_exists_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    with RunSignals():
        signal.raise_signal(signal.SIGUSR1)  # no run to save yet; does not interrupt
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143


@pytest.mark.usefixtures("handlers")
def test_a_lost_signal_before_the_trainer_exists_still_ends_the_run() -> None:
    with RunSignals() as signals:
        with contextlib.suppress(Interrupted):  # as if raised in a destructor, where exceptions are ignored
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            signals.watch(FakeTrainer())  # type: ignore[arg-type]
    assert caught.value.exit_code == 143


@pytest.mark.usefixtures("handlers")
def test_a_signal_between_two_runs_interrupts() -> None:
    with RunSignals() as signals:
        signals.watch(FakeTrainer())  # type: ignore[arg-type]
        signals.unwatch()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("handlers")
def test_a_signal_after_the_run_that_one_has_stopped_has_no_effect() -> None:
    trainer = FakeTrainer()
    with RunSignals() as signals:
        signals.watch(trainer)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        assert trainer.requests.stopping
        signals.unwatch()
        signal.raise_signal(signal.SIGTERM)
        assert signals.exit_code == 143
