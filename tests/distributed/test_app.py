"""The app as rank 0 of two, started by mpiexec in a tmux terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.training.events import RunStarted
from gpt_core.training.metrics_log import read_metrics
from tests.distributed.launched import LAUNCHER, ranks_among, run_on
from tests.distributed.processes import STARTED_BY, started_by, wait_for_ends
from tests.program import PROGRAM, tiny, write_texts
from tests.tui.test_tmux import Tmux, step_shown

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not here")]

LATEST = Path("models/ckpt_latest.safetensors")
SETTINGS = tiny(
    "batch_size=8", "save_every_minutes=0", "save_epoch_number=0", "sample_tokens=0",
    "max_epochs=1000000", "patience=0", "epsilon=0", "eval_every_steps=100", "heartbeat_s=15",
)  # fmt: skip


class App(Tmux):
    """The app on two ranks."""

    def open(self, *more: str, other: tuple[str, ...] = ()) -> None:
        """Start it; `more` are options of both ranks, `other` those of rank 1."""
        words = [*PROGRAM, *SETTINGS, *more]
        command = shlex.join([*LAUNCHER, "-n", "1", *words, ":", "-n", "1", *words, *other])
        (self.folder / "app.sh").write_text(f"export OMP_NUM_THREADS=1\nexec {command}\n")
        self.type("clear; sh app.sh")
        self.keys("Enter")
        self.until_seen("○ ready")

    def ranks(self) -> dict[int, int]:
        """Return the process of each rank."""
        return ranks_among(started_by(os.environ[STARTED_BY]))

    def until_training(self, step: int) -> None:
        """Wait until a run is past a step."""
        self.until(lambda screen: "▶ training" in screen and step_shown(screen) > step)


@pytest.fixture
def app(tmp_path: Path, test_id: str) -> Iterator[App]:
    write_texts(tmp_path)
    terminal = App(tmp_path)
    yield terminal
    terminal.close()


def test_runs_are_started_stopped_resumed_and_saved_by_keys(app: App) -> None:
    app.open()
    app.until_seen("2 on 1 host")
    app.keys("s")
    app.until_training(20)
    app.keys("x")
    stopped = step_shown(app.until_seen("■ stopped", "saved"))
    assert verify_checkpoint(app.folder / LATEST).step == stopped
    app.keys("r")
    app.until_training(stopped)
    ranks = app.ranks()
    assert sorted(ranks) == [0, 1]
    app.keys("q")
    app.until_seen("Quit gpt-tui?")
    app.keys("s")
    assert "code-0\n echo" in app.until_shell()
    wait_for_ends(list(ranks.values()))
    assert verify_checkpoint(app.folder / LATEST).step > stopped
    starts = [event for event in read_metrics(app.folder / "models/metrics.jsonl") if isinstance(event, RunStarted)]
    assert [len(event.hosts) for event in starts] == [2, 2]


def test_a_rank_killed_during_a_run_ends_all_with_one_line_and_a_checkpoint(app: App) -> None:
    app.open()
    app.keys("s")
    app.until_training(20)
    ranks = app.ranks()
    os.kill(ranks[1], signal.SIGKILL)
    screen = app.until_shell().replace("\n", "")
    assert "code-1 echo" in screen
    assert screen.count("gpt-tui: rank 1 on ") == 1
    assert "the process has ended or its network is lost; models/ckpt_latest.safetensors holds step " in screen
    assert "BAD TERMINATION" not in screen
    wait_for_ends(list(ranks.values()))
    assert verify_checkpoint(app.folder / LATEST).step > 20


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_while_no_run_is_in_progress_ends_all_and_the_terminal_is_restored(rank: int, app: App) -> None:
    app.open()
    ranks = app.ranks()
    os.kill(ranks[rank], signal.SIGKILL)
    screen = app.until_shell().replace("\n", "")
    assert "code-1 echo" in screen
    assert screen.count(f"gpt-tui: rank {rank} on ") == 1
    wait_for_ends(list(ranks.values()))


@pytest.mark.parametrize("runs", [True, False])
def test_a_signal_to_another_rank_saves_and_quits(runs: bool, app: App) -> None:
    app.open()
    if runs:
        app.keys("s")
        app.until_training(20)
    os.kill(app.ranks()[1], signal.SIGTERM)
    assert "code-143\n echo" in app.until_shell()
    assert (app.folder / LATEST).exists() == runs


def test_ctrl_c_saves_and_quits(app: App) -> None:
    app.open()
    app.keys("s")
    app.until_training(20)
    app.keys("C-c")
    assert "code-130\n echo" in app.until_shell()
    assert verify_checkpoint(app.folder / LATEST).step > 20


def test_a_text_that_differs_on_a_rank_is_refused_and_the_app_stays_usable(app: App) -> None:
    other = app.folder / "other.en"
    other.write_text("Another text of a few words.\n\n" * 100)
    app.open(other=("--train-file", str(other)))
    app.keys("s")
    app.until_seen("✗ failed", "rank 1 on ", "has another training")
    other.write_bytes((app.folder / "data/raw/train.en").read_bytes())
    app.keys("s")
    app.until_training(5)
    app.keys("q")
    app.until_seen("Quit gpt-tui?")
    app.keys("s")
    assert "code-0\n echo" in app.until_shell()


def test_one_rank_is_the_app_of_one_process_in_the_terminal_of_mpiexec(app: App) -> None:
    app.type(shlex.join([*LAUNCHER, "-n", "1", *PROGRAM, *SETTINGS]))
    app.keys("Enter")
    screen = app.until_seen("○ ready", "on this computer")
    assert "by rank 0" not in screen
    app.keys("q")
    assert "code-0\n echo" in app.until_shell()


def test_ranks_that_are_started_differently_are_refused(tmp_path: Path) -> None:
    write_texts(tmp_path)
    others = [":", "-n", "1", *PROGRAM, "--train-only", *SETTINGS]
    code, output = run_on(1, "bench", "--mpi", *SETTINGS, *others, cwd=tmp_path)
    assert code == 2
    assert output.count("gpt-tui: ") == 1
    assert "was started with train, rank 0 with bench --mpi; start the same on all" in output


def test_without_a_terminal_one_line_says_what_to_do(tmp_path: Path) -> None:
    write_texts(tmp_path)
    code, output = run_on(2, cwd=tmp_path)
    assert code == 2
    assert output.count("gpt-tui: ") == 1
    assert "the app needs the terminal of mpiexec, but rank 0 cannot reach it from here; add --train-only" in output
