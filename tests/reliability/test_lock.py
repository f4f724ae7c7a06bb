"""One trainer per models folder: a second one is refused at once, and a lock never outlives its process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import verify_checkpoint
from tests.reliability.runs import (
    LATEST,
    Headless,
    require_one_line,
    require_valid_checkpoints,
    run_to_completion,
    training,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("options", [[], ["--resume"], ["--overwrite"]], ids=["new", "resume", "overwrite"])
def test_a_second_trainer_is_refused_with_the_pid_of_the_first(folder: Path, options: list[str]) -> None:
    with Headless(*training("save_every_steps=1"), cwd=folder) as first:
        first.wait_for(lambda: any(event["event"] == "saved" for event in first.events))
        (folder / "second").mkdir()
        before = sorted(path.name for path in (folder / "models").glob("*.safetensors"))
        where = ["--models-dir", str(folder / "models"), "--train-file", str(folder / "data/raw/train.en")]
        second = run_to_completion(*training(), *where, *options, cwd=folder / "second")
        require_one_line(
            second, 2, f"process {first.process.pid} is training there (", "--train-only --json", "--models-dir"
        )
        assert set(before) <= {path.name for path in (folder / "models").glob("*.safetensors")}
        assert first.stop() == 130
    require_valid_checkpoints(folder / "models", first.events)


@pytest.mark.essential
def test_the_lock_is_released_when_its_process_ends_even_when_killed(folder: Path) -> None:
    with Headless(*training("save_every_steps=1"), cwd=folder) as first:
        first.wait_for(lambda: any(event["event"] == "saved" for event in first.events))
        first.stop(signal.SIGKILL)
    assert (folder / "models/.lock").exists()
    saved = verify_checkpoint(folder / LATEST).step
    again = run_to_completion(*training(), "--resume", "--max-steps", str(saved + 3), cwd=folder)
    assert again.code == 0, again.errors
