"""The holder of a folder's lock is found without taking the lock, and is a live process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_core.checkpoints.lock import LOCK, LOCKS, lock_holder
from gpt_core.checkpoints.store import CheckpointStore

HOLD = """
import sys
from gpt_core.checkpoints.store import CheckpointStore
store = CheckpointStore(sys.argv[1])
store.prepare("run", new_run=True)
print("held", flush=True)
sys.stdin.read()
"""


def holding(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("locks", [LOCKS, Path("/nowhere/locks")])
def test_a_live_trainer_is_named_until_it_is_killed(tmp_path: Path, locks: Path) -> None:
    process = holding(tmp_path)
    try:
        assert lock_holder(tmp_path, locks) == process.pid
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert lock_holder(tmp_path, locks) is None


@pytest.mark.skipif(not LOCKS.exists(), reason="the system does not list its locks")
def test_a_live_process_that_has_released_the_lock_is_not_the_holder(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)
        assert lock_holder(tmp_path) == os.getpid()
    assert (tmp_path / LOCK).read_text().splitlines()[0] == str(os.getpid())
    assert lock_holder(tmp_path) is None


def test_finding_the_holder_does_not_take_the_lock(tmp_path: Path) -> None:
    lock_holder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)
        lock_holder(tmp_path)
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)


@pytest.mark.parametrize("content", [b"", b"no number", b"-1\n", b"0\n", b"9" * 40, b"\xff\n"])
def test_a_lock_file_with_invalid_contents_has_no_holder(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    assert lock_holder(tmp_path) is None
    assert lock_holder(tmp_path, Path("/nowhere/locks")) is None


def test_a_folder_or_a_fifo_instead_of_the_lock_file_has_no_holder(tmp_path: Path) -> None:
    (tmp_path / "a" / LOCK).mkdir(parents=True)
    assert lock_holder(tmp_path / "a") is None
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / LOCK)
    assert lock_holder(tmp_path / "b") is None
    assert lock_holder(tmp_path / "absent") is None


def test_a_process_that_waits_for_the_lock_is_not_the_holder(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("4711\n")
    inode = (tmp_path / LOCK).stat().st_ino
    locks = tmp_path / "locks"
    locks.write_text(f"1: -> FLOCK  ADVISORY  WRITE 4711 fe:00:{inode} 0 EOF\nrubbish\n")
    assert lock_holder(tmp_path, locks) is None
    locks.write_text(f"1: FLOCK  ADVISORY  WRITE 4711 fe:00:{inode} 0 EOF\n")
    assert lock_holder(tmp_path, locks) == 4711
