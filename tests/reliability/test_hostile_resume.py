"""`--resume` with an invalid target: one line, exit code 2, without delay; and fallback from a damaged checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt_core.formats.checkpoint import read_checkpoint, write_checkpoint
from tests.core.checkpoint_samples import forged, sample, split
from tests.program import write_texts
from tests.reliability.runs import LATEST, Output, require_one_line, run_process, run_to_completion, training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with texts and checkpoints, oldest first: epoch_001, best_model, ckpt_latest."""
    folder = tmp_path_factory.mktemp("trained")
    write_texts(folder)
    run = run_to_completion(*training("save_epoch_number=1"), "--max-steps", "50", cwd=folder)
    assert run.code == 0, run.errors
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained folder."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def timed_resume(folder: Path, target: str, *more: str) -> tuple[Output, float]:
    """Resume from a target; return the run and its CPU seconds."""
    before = os.times()
    run = run_process(*training(), "--resume", target, "--models-dir", str(folder / "models"), *more, cwd=folder)
    after = os.times()
    return run, after.children_user + after.children_system - before.children_user - before.children_system


@pytest.fixture(scope="module")
def usual_s(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return the CPU seconds of a successful resume."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("usual") / "copy"))
    run, took_s = timed_resume(folder, str(LATEST), "--max-steps", "51")
    assert run.code == 0, run.errors
    return took_s


def with_nan(path: Path) -> None:
    """Write a NaN into a weight, with correct checksums."""
    header, tail = split(path.read_bytes())
    start, stop = header["wte.weight"]["data_offsets"]
    weights = np.frombuffer(tail[start:stop], np.float32).copy()
    weights[7] = np.nan
    data = tail[:start] + weights.tobytes() + tail[stop:]
    checksums = json.loads(header["__metadata__"]["checksums"])
    checksums["wte.weight"] = hashlib.sha256(weights.tobytes()).hexdigest()
    header["__metadata__"]["checksums"] = json.dumps(checksums)
    path.write_bytes(forged(header, data))


def make_target(folder: Path, kind: str) -> str:
    """Create a target for --resume and return it."""
    latest, target = folder / LATEST, folder / "target.safetensors"
    if kind == "folder":
        return "models"
    if kind == "missing":
        return "nowhere.safetensors"
    if kind == "device":
        return "/dev/zero"
    if kind == "terminal":
        return "/dev/tty"
    if kind == "FIFO":
        os.mkfifo(target)
    elif kind == "loop":
        target.symlink_to(target)
    elif kind == "NaN":
        shutil.copy(latest, target)
        with_nan(target)
    else:
        data = latest.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        target.write_bytes({
            "empty": b"", "text": b"It was a dark night.\n" * 1000, "truncated": data[:-100], "header only": data[:end],
            "flipped": data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :], "longer": data + b"x",
            "huge header": (1 << 62).to_bytes(8, "little") + data[8:],
        }[kind])  # fmt: skip
    return str(target)


@pytest.mark.skipif(os.name == "nt", reason="FIFOs and devices")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("folder", "is a folder, expected a file"),
        ("missing", "No such file or directory"),
        ("device", "is a device, expected a file"),
        ("terminal", "/dev/tty"),
        ("FIFO", "is a FIFO, expected a file"),
        ("loop", "symbolic links"),
        ("NaN", "values that are not finite"),
        ("empty", "target.safetensors"),
        ("text", "target.safetensors"),
        ("truncated", "target.safetensors"),
        ("header only", "target.safetensors"),
        ("flipped", "does not match its checksum"),
        ("longer", "target.safetensors"),
        ("huge header", "target.safetensors"),
    ],
)
def test_an_invalid_resume_target_is_refused_in_one_line_and_no_slower_than_a_resume(
    folder: Path, usual_s: float, kind: str, expected: str
) -> None:
    target = make_target(folder, kind)
    latest = (folder / LATEST).read_bytes()
    run, took_s = timed_resume(folder, target)
    require_one_line(run, 2, expected)
    assert not run.events
    assert took_s < 3 * usual_s  # a run that blocks on the target would never end
    assert (folder / LATEST).read_bytes() == latest


def test_a_checkpoint_of_another_shape_is_refused_with_the_differences(folder: Path) -> None:
    run = run_to_completion(*training(), "--set", "d_model=32", "--resume", cwd=folder)
    require_one_line(run, 2, "d_model")


def test_a_file_that_declares_a_large_model_is_refused_without_allocating_it(folder: Path) -> None:
    target = folder / "target.safetensors"
    write_checkpoint(target, sample())
    header, tail = split(target.read_bytes())
    small = '"d_model":8,"hidden_size":12'
    assert small in header["__metadata__"]["settings"]
    large = header["__metadata__"]["settings"].replace(small, '"d_model":65536,"hidden_size":262144')
    header["__metadata__"]["settings"] = large
    target.write_bytes(forged(header, tail))
    run = run_process(*training(), "--resume", str(target), cwd=folder)
    require_one_line(run, 2, "target.safetensors")
    assert run.peak_kb < 200_000


@pytest.mark.essential
@pytest.mark.parametrize("damage", ["truncated", "flipped", "NaN", "empty"])
def test_resume_falls_back_to_the_newest_valid_checkpoint_and_reports_it(folder: Path, damage: str) -> None:
    target = make_target(folder, damage)
    shutil.copy(target, folder / LATEST)
    os.unlink(target)
    next_best = folder / "models/best_model.safetensors"
    expected = read_checkpoint(next_best).state.step
    run = run_to_completion(*training(), "--resume", "--max-steps", "60", cwd=folder)
    assert run.code == 0, run.errors
    assert "gpt-tui: skipped: models/ckpt_latest.safetensors" in run.errors
    assert run.events[0]["step"] == expected
    assert ["ckpt_latest" in line for line in run.events[0]["warnings"]] == [True]
    assert run.steps == 60


@pytest.mark.essential
def test_resume_without_a_valid_checkpoint_names_every_damaged_one(folder: Path) -> None:
    paths = sorted((folder / "models").glob("*.safetensors"))
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    run = run_to_completion(*training(), "--resume", cwd=folder)
    assert run.code == 2
    for path in paths:
        assert path.name in run.errors
    assert "nothing to resume in models" in run.errors.splitlines()[-1]
    new_run = run_to_completion(*training(), cwd=folder)
    require_one_line(new_run, 2, "--overwrite")


def test_a_diverged_run_can_be_resumed_with_lower_learning_rates(folder: Path) -> None:
    checkpoint = read_checkpoint(folder / LATEST)
    checkpoint.state.finished, checkpoint.state.skipped_in_a_row = "diverged", 5
    write_checkpoint(folder / LATEST, checkpoint)
    run = run_to_completion(*training(), "--resume", "--max-steps", "60", cwd=folder)
    assert run.code == 0, run.errors
    assert run.steps == 60
