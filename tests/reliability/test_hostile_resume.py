"""`--resume` with what is no checkpoint to resume: one line, exit code 2, at once; and a damaged newest one."""

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
from tests.reliability.runs import LATEST, Told, require_one_line, run_process, run_to_its_end, training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, and checkpoints of three ages: epoch_001, best_model, ckpt_latest."""
    folder = tmp_path_factory.mktemp("trained")
    write_texts(folder)
    run = run_to_its_end(*training("save_epoch_number=1"), "--max-steps", "50", cwd=folder)
    assert run.code == 0, run.errors
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def timed_resume(folder: Path, target: str, *more: str) -> tuple[Told, float]:
    """A run of the program that is to resume from a target, and the seconds of the processor that it took."""
    before = os.times()
    run = run_process(*training(), "--resume", target, "--models-dir", str(folder / "models"), *more, cwd=folder)
    after = os.times()
    return run, after.children_user + after.children_system - before.children_user - before.children_system


@pytest.fixture(scope="module")
def usual_s(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The seconds of the processor that a resume takes where nothing is wrong."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("usual") / "copy"))
    run, took_s = timed_resume(folder, str(LATEST), "--max-steps", "51")
    assert run.code == 0, run.errors
    return took_s


def with_nan(path: Path) -> None:
    """Put a NaN into a weight, under checksums that are right."""
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
    """Something to name after --resume."""
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
    ("kind", "told"),
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
def test_what_cannot_be_resumed_is_refused_in_one_line_and_no_more_time_than_a_resume_takes(
    folder: Path, usual_s: float, kind: str, told: str
) -> None:
    target = make_target(folder, kind)
    latest = (folder / LATEST).read_bytes()
    run, took_s = timed_resume(folder, target)
    require_one_line(run, 2, told)
    assert not run.events
    assert took_s < 3 * usual_s  # what waits for anything does not end at all
    assert (folder / LATEST).read_bytes() == latest


def test_a_checkpoint_of_another_shape_is_refused_with_what_differs(folder: Path) -> None:
    run = run_to_its_end(*training(), "--set", "d_model=32", "--resume", cwd=folder)
    require_one_line(run, 2, "d_model")


def test_a_valid_file_that_claims_a_large_model_takes_no_memory_before_it_is_refused(folder: Path) -> None:
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
def test_resume_falls_back_to_the_newest_whole_checkpoint_and_says_so(folder: Path, damage: str) -> None:
    target = make_target(folder, damage)
    shutil.copy(target, folder / LATEST)
    os.unlink(target)
    next_best = folder / "models/best_model.safetensors"
    expected = read_checkpoint(next_best).state.step
    run = run_to_its_end(*training(), "--resume", "--max-steps", "60", cwd=folder)
    assert run.code == 0, run.errors
    assert "gpt-tui: passed over: models/ckpt_latest.safetensors" in run.errors
    assert run.events[0]["step"] == expected
    assert ["ckpt_latest" in line for line in run.events[0]["warnings"]] == [True]
    assert run.steps == 60


@pytest.mark.essential
def test_resume_without_any_whole_checkpoint_names_every_damaged_one(folder: Path) -> None:
    paths = sorted((folder / "models").glob("*.safetensors"))
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    run = run_to_its_end(*training(), "--resume", cwd=folder)
    assert run.code == 2
    for path in paths:
        assert f"passed over: models/{path.name}" in run.errors
    assert "nothing to resume in models" in run.errors.splitlines()[-1]
    new_run = run_to_its_end(*training(), cwd=folder)
    require_one_line(new_run, 2, "--overwrite")


def test_a_run_that_diverged_can_be_resumed_with_lower_rates(folder: Path) -> None:
    checkpoint = read_checkpoint(folder / LATEST)
    checkpoint.state.finished, checkpoint.state.skipped_in_a_row = "diverged", 5
    write_checkpoint(folder / LATEST, checkpoint)
    run = run_to_its_end(*training(), "--resume", "--max-steps", "60", cwd=folder)
    assert run.code == 0, run.errors
    assert run.steps == 60
