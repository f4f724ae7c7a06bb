"""The program under mpiexec: bits of one process, one saved checkpoint after a signal, one line after a fault."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from gpt_core.training.events import EvalCompleted, FullEvalCompleted, RunStarted, SampleWritten, StepCompleted
from gpt_core.training.metrics_log import read_metrics
from tests.distributed.launched import HEARTBEAT_S, IS_OPEN_MPI, Launched, options, run_on
from tests.distributed.processes import wait_for_ends
from tests.program import PROGRAM, ROOT, run_program, write_texts
from tests.reliability.counts import count

pytestmark = pytest.mark.slow
KILLS = count(4, 200)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a training text and an eval text."""
    write_texts(tmp_path)
    return tmp_path


def tensors(path: Path) -> list[bytes]:
    """Return weights and optimizer state of a checkpoint."""
    checkpoint: Checkpoint = read_checkpoint(path)
    assert checkpoint.optimizer_state is not None
    return [values.flat.tobytes() for values in (checkpoint.parameters, *checkpoint.optimizer_state.values())]


def figures(models: Path) -> list[tuple[object, ...]]:
    """Return the losses, scores and samples in the log of a run."""
    found: list[tuple[object, ...]] = []
    for event in read_metrics(models / "metrics.jsonl"):
        if isinstance(event, StepCompleted):
            found.append((event.step, event.loss, event.grad_norm))
        elif isinstance(event, EvalCompleted | FullEvalCompleted):
            found.append((event.step, event.loss, event.accuracy))
        elif isinstance(event, SampleWritten):
            found.append((event.step, event.text))
    return found


def test_a_run_cut_and_resumed_on_other_numbers_of_ranks_equals_that_of_one_process(folder: Path) -> None:
    alone = run_program(*options("max_steps=50", folder="alone"), cwd=folder)
    assert alone.returncode == 0, alone.stderr
    for size, steps in ((2, 15), (3, 30), (8, 50)):
        resume = () if steps == 15 else ("--resume",)
        code, output = run_on(size, *options(f"max_steps={steps}", *resume, folder="several"), cwd=folder)
        assert code == 0, output
        assert f"{size} ranks on 1 host, 1 thread per rank" in output
    found = figures(folder / "several")
    assert set(figures(folder / "alone")) <= set(found)  # those at the ends of the parts are added
    latest = "ckpt_latest.safetensors"
    assert tensors(folder / "several" / latest) == tensors(folder / "alone" / latest)
    started = [event for event in read_metrics(folder / "several/metrics.jsonl") if isinstance(event, RunStarted)]
    assert [len(event.hosts) for event in started] == [2, 3, 8]


@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGTERM), (None, signal.SIGINT), (0, signal.SIGHUP)])
def test_a_signal_to_any_rank_or_to_mpiexec_ends_in_one_saved_checkpoint(
    rank: int | None, number: signal.Signals, folder: Path
) -> None:
    launched = Launched(3, *options(), cwd=folder)
    launched.wait_for_steps(5, folder / "models")
    ranks = launched.ranks()
    os.kill(launched.process.pid if rank is None else ranks[rank], number)
    code, output = launched.end()
    if IS_OPEN_MPI and rank is None:  # its mpiexec ends at once; the ranks save without it
        wait_for_ends(list(ranks.values()))
    else:
        assert code == 128 + number, output
        assert "stopped and saved" in output
    last = max(
        event.step for event in read_metrics(folder / "models/metrics.jsonl") if isinstance(event, StepCompleted)
    )
    assert read_checkpoint(folder / "models/ckpt_latest.safetensors").step == last


def test_sigusr1_to_any_rank_saves_and_continues(folder: Path) -> None:
    launched = Launched(2, *options("save_every_steps=0"), cwd=folder)
    launched.wait_for_steps(5, folder / "models")
    os.kill(launched.ranks()[1], signal.SIGUSR1)
    latest = folder / "models/ckpt_latest.safetensors"
    while not latest.exists():
        assert launched.process.poll() is None
        time.sleep(0.05)
    assert verify_checkpoint(latest).step >= 5
    os.kill(launched.ranks()[0], signal.SIGTERM)
    assert launched.end()[0] == 143


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_hangs_ends_the_run_within_the_heartbeat(rank: int, folder: Path) -> None:
    launched = Launched(3, *options(), cwd=folder)
    launched.wait_for_steps(12, folder / "models")
    ranks = launched.ranks()
    os.kill(ranks[rank], signal.SIGSTOP)
    code, output = launched.end()
    assert code == 1, output
    assert_reported_once(output, f"rank {rank} on ", f"has not responded for {HEARTBEAT_S} seconds")
    wait_for_ends(list(ranks.values()))
    assert verify_checkpoint(folder / "models/ckpt_latest.safetensors").step >= 10


def test_all_ranks_end_when_mpiexec_is_killed(folder: Path) -> None:
    launched = Launched(3, *options(), cwd=folder)
    launched.wait_for_steps(12, folder / "models")
    ranks = launched.ranks()
    os.kill(launched.process.pid, signal.SIGKILL)
    wait_for_ends(list(ranks.values()))
    assert verify_checkpoint(folder / "models/ckpt_latest.safetensors").step >= 10
    code, output = run_on(2, *options("--resume", "max_steps=100"), cwd=folder)
    assert code == 0, output


def test_kills_of_ranks_at_any_instant_leave_a_valid_checkpoint_that_fewer_ranks_resume(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("count", KILLS)
    draw = random.Random(7)
    models, latest = folder / "models", folder / "models/ckpt_latest.safetensors"
    step = 0
    for number in range(KILLS):
        size, resume = draw.choice((2, 3)), ("--resume",) if number else ()
        launched = Launched(size, *options(*resume), cwd=folder)
        launched.wait_for_steps(12 if number == 0 else 1, models)
        time.sleep(draw.random())
        ranks = launched.ranks()
        rank = draw.randrange(size)
        os.kill(ranks[rank], signal.SIGKILL)
        code, output = launched.end()
        assert code == 1, output
        assert_reported_once(output, f"rank {rank} on ", "the process has ended or its network is lost")
        assert rank == 0 or f"{latest.relative_to(folder)} holds step " in output
        wait_for_ends(list(ranks.values()))
        found = verify_checkpoint(latest).step
        assert found >= step
        step = found
    code, output = run_on(2, *options("--resume", f"max_steps={step + 2}"), cwd=folder)
    assert code == 0, output


def test_local_steps_stopped_or_killed_within_a_round_resume_exactly_from_its_start_or_end(folder: Path) -> None:
    rounds = ("sync_every_steps=50", "max_steps=400", "save_every_steps=50", "eval_every_steps=100", "ema=0.9")
    code, output = run_on(2, *options(*rounds, folder="whole"), cwd=folder)
    assert code == 0, output
    latest = folder / "models/ckpt_latest.safetensors"
    launched = Launched(2, *options(*rounds), cwd=folder)
    launched.wait_for_steps(60, folder / "models")
    os.kill(launched.ranks()[1], signal.SIGTERM)
    code, output = launched.end()
    assert code == 143, output
    stopped = verify_checkpoint(latest).step
    assert f"step {stopped}: stopped and saved" in output
    launched = Launched(2, *options(*rounds, "--resume"), cwd=folder)
    launched.wait_for_steps(60, folder / "models")
    os.kill(launched.ranks()[1], signal.SIGKILL)
    code, output = launched.end()
    assert code == 1, output
    steps = {path: verify_checkpoint(path).step for path in (latest, *latest.parent.glob("epoch_*.safetensors"))}
    found = max(steps.values())
    assert stopped < found < 400
    assert_reported_once(output, "rank 1 on ", f" holds step {found}, from which")
    assert any(step == found and f"models/{path.name} holds step" in output for path, step in steps.items()), output
    code, output = run_on(2, *options(*rounds, "--resume"), cwd=folder)
    assert code == 0, output
    assert tensors(latest) == tensors(folder / "whole" / latest.name)
    assert set(figures(folder / "whole")) <= set(figures(folder / "models"))


class SlowDisk:
    """Disk on which each write of a checkpoint waits for `unpause`, and a grace period that ends soon."""

    SCRIPT = """
import pathlib, threading, time
from gpt_core import files
from gpt_core.distributed import launch
launch.GRACE_S = 8.0
write = files.write_all
def wait_and_write(*arguments):
    if threading.current_thread().name == "saving":
        pathlib.Path("saving").touch()
        while not pathlib.Path("unpause").exists():
            time.sleep(0.02)
    write(*arguments)
files.write_all = wait_and_write
"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.changes = {"PYTHONPATH": f"{folder / 'slow'}:{ROOT}"}
        (folder / "slow").mkdir()
        (folder / "slow/sitecustomize.py").write_text(self.SCRIPT)

    def wait_for_save(self, launched: Launched) -> None:
        """Wait until rank 0 saves."""
        while not (self._folder / "saving").exists():
            assert launched.process.poll() is None, launched.end()
            time.sleep(0.02)

    def unpause(self) -> None:
        """Let saves be completed."""
        (self._folder / "unpause").touch()


def test_the_last_save_after_the_loss_of_a_rank_may_take_longer_than_the_grace_period(folder: Path) -> None:
    disk = SlowDisk(folder)
    launched = Launched(3, *options("save_every_steps=0"), cwd=folder, **disk.changes)
    launched.wait_for_steps(5, folder / "models")
    ranks = launched.ranks()
    os.kill(ranks[1], signal.SIGKILL)
    disk.wait_for_save(launched)
    time.sleep(10.0)  # more than the grace period
    disk.unpause()
    code, output = launched.end()
    assert code == 1, output
    assert_reported_once(output, "rank 1 on ", "; models/ckpt_latest.safetensors holds step ")
    wait_for_ends(list(ranks.values()))
    assert verify_checkpoint(folder / "models/ckpt_latest.safetensors").step >= 5


@pytest.mark.parametrize("signalled", [(0, 1, 2), (1,)])
def test_a_second_signal_to_any_ranks_ends_them_after_the_save_in_progress(
    signalled: tuple[int, ...], folder: Path
) -> None:
    disk = SlowDisk(folder)
    launched = Launched(3, *options(), cwd=folder, **disk.changes)
    disk.wait_for_save(launched)
    ranks = launched.ranks()
    for pause_s in (1.5, 3.0):
        for rank in signalled:
            os.kill(ranks[rank], signal.SIGTERM)
        time.sleep(pause_s)
    assert launched.process.poll() is None, launched.end()
    disk.unpause()
    code, output = launched.end()
    assert code == 143, output
    assert_reported_once(output, "exited at once" if 0 in signalled else "rank 1 on ")
    wait_for_ends(list(ranks.values()))
    assert verify_checkpoint(folder / "models/ckpt_latest.safetensors").step >= 10


def test_a_time_budget_chooses_a_micro_batch_for_every_rank(folder: Path) -> None:
    limits = ("--minutes", "0.5", "--set", "max_steps=3", "--set", "eval_tokens=500", "--set", "heartbeat_s=15")
    code, output = run_on(2, "--train-only", *limits, cwd=folder)
    assert code == 0, output
    started = next(event for event in read_metrics(folder / "models/metrics.jsonl") if isinstance(event, RunStarted))
    assert len(started.hosts) == 2
    settings = verify_checkpoint(folder / "models/ckpt_latest.safetensors").settings
    assert settings.micro_batches == 2
    assert settings.minutes == 0.5


def test_errors_are_shown_once_with_the_exit_code_of_one_process(folder: Path) -> None:
    code, output = run_on(3, *options("batch_size=0"), cwd=folder)
    assert code == 2
    assert_reported_once(output, "batch_size: got 0")
    code, output = run_on(3, *options("micro_batch_size=4"), cwd=folder)
    assert code == 2
    assert_reported_once(output, "3 ranks need as many micro-batches per step, got 2", "; add --set micro_batch_size=2")
    code, output = run_on(2, "generate", "It was", cwd=folder)
    assert code == 2
    assert_reported_once(output, "generate was started by mpiexec on 2 ranks")
    assert not (folder / "models").exists()


def test_a_text_that_differs_or_is_missing_on_one_rank_is_refused(folder: Path) -> None:
    other = folder / "other.en"
    other.write_text("Another text of some words.\n\n" * 50)
    rank = f"gpt-tui: rank 1 on {socket.gethostname()}"
    for name, words in (("other.en", [f"{rank} has another training text"]), ("none.en", [f"{rank}: ", "none.en"])):
        arguments = [*options(), ":", "-n", "1"]
        code, output = run_on(1, *arguments, *PROGRAM, *options("--train-file=" + name), cwd=folder)
        assert code == 2, output
        assert_reported_once(output, *words)


def test_the_launcher_and_mpi4py_must_fit_together(folder: Path) -> None:
    without = folder / "without/mpi4py"
    without.mkdir(parents=True)
    (without / "__init__.py").write_text("raise ImportError\n")
    code, output = run_on(2, *options(), cwd=folder, PYTHONPATH=f"{without.parent}:{ROOT}")
    assert code == 1
    assert_reported_once(output, "started by mpiexec, but mpi4py is not installed; run `pip install '.[mpi]'`")
    arguments = [*options(), ":", "-n", "1", "env", f"PYTHONPATH={without.parent}:{ROOT}", *PROGRAM, *options()]
    code, output = run_on(1, *arguments, cwd=folder)
    assert code == 1
    assert_reported_once(output, "rank 1 on ", "started by mpiexec, but mpi4py is not installed")
    for rank, size in (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")):
        other = run_program(*options(), cwd=folder, **{rank: "0", size: "2"})
        assert other.returncode == 2
        assert_reported_once(other.stderr, "use the mpiexec of that MPI")


def assert_reported_once(output: str, *words: str) -> None:
    """Check that one line is an error, that it has these words, and that mpiexec adds none."""
    lines = [line for line in output.splitlines() if line.startswith("gpt-tui: ")]
    assert len(lines) == 1, output
    assert all(word in lines[0] for word in words), lines
    assert "BAD TERMINATION" not in output
    assert "Traceback" not in output
