"""The holder of a folder's lock is found without taking the lock, and is a live process."""

import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_core.checkpoints import lock
from gpt_core.checkpoints.lock import LOCK, LOCKS, FolderLock, LockHolder, _is_open_file_locked, lock_holder
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import FolderInUseError

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
        holder = lock_holder(tmp_path, locks)
        assert holder is not None
        assert (holder.pid, holder.is_here, holder.is_certain, holder.place) == (process.pid, True, True, "")
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert lock_holder(tmp_path, locks) is None


@pytest.mark.skipif(not LOCKS.exists(), reason="the system does not list its locks")
def test_a_live_process_that_has_released_the_lock_is_not_the_holder(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)
        holder = lock_holder(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert (tmp_path / LOCK).read_text().splitlines()[0] == str(os.getpid())
    assert lock_holder(tmp_path) is None


def test_a_lock_on_a_file_of_the_same_inode_elsewhere_is_not_the_lock(tmp_path: Path) -> None:
    folder, locks = tmp_path / "models", tmp_path / "locks"
    with CheckpointStore(folder) as store:
        store.prepare("run", new_run=True)
        with (folder / LOCK).open("rb") as file:
            if _is_open_file_locked(file.fileno()) is None:
                pytest.skip("no locks of open files")
        inode = (folder / LOCK).stat().st_ino
        locks.write_text(f"1: FLOCK  ADVISORY  WRITE 4711 00:1f:{inode} 0 EOF\n")
        assert lock_holder(folder, locks) is not None
    assert lock_holder(folder, locks) is None


def test_finding_the_holder_does_not_take_the_lock(tmp_path: Path) -> None:
    lock_holder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)
        lock_holder(tmp_path)
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)


def test_a_lock_whose_file_cannot_be_written_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_describe_this_process", fail)
        with pytest.raises(OSError, match="No space") as raised:
            FolderLock(tmp_path).acquire()
    other = FolderLock(tmp_path)
    other.acquire()
    other.release()
    assert raised.value.errno == errno.ENOSPC  # the error, and the frames that it holds, are alive until here


def test_a_forked_child_does_not_keep_the_lock_of_a_run_that_has_ended(tmp_path: Path) -> None:
    ends, closes = os.pipe()
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)
        child = os.fork()
        if child == 0:  # lives, with the lock file open, until the other end of the pipe is closed
            os.close(closes)
            os.read(ends, 1)
            os._exit(0)
    try:
        assert lock_holder(tmp_path) is None
        with CheckpointStore(tmp_path) as store:
            store.prepare("run", new_run=True)
            assert lock_holder(tmp_path) is not None
    finally:
        os.close(closes)
        os.waitpid(child, 0)
        os.close(ends)


def test_a_forked_child_that_closes_its_copy_does_not_release_the_lock(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path) as store:
        store.prepare("run", new_run=True)
        child = os.fork()
        if child == 0:
            store.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert lock_holder(tmp_path) is not None
        with CheckpointStore(tmp_path) as another, pytest.raises(FolderInUseError):
            another.prepare("run", new_run=True)


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
    assert lock_holder(tmp_path, locks) == LockHolder(4711)


UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def needs_namespaces() -> None:
    """Skip the test if this user may not create PID namespaces."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces")


def in_another_namespace(folder: Path) -> "subprocess.Popen[str]":
    """Start a trainer in a PID namespace of its own, where it is process 1."""
    process = subprocess.Popen(
        [*UNSHARE, sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_trainer_in_another_pid_namespace_is_live_and_no_process_of_this_one(tmp_path: Path) -> None:
    needs_namespaces()
    process = in_another_namespace(tmp_path)
    try:
        for locks in (LOCKS, Path("/nowhere/locks")):
            holder = lock_holder(tmp_path, locks)
            assert holder is not None
            assert (holder.pid, holder.is_here, holder.is_certain) == (1, False, True)
            assert holder.place == "in another container"
        with CheckpointStore(tmp_path) as store, pytest.raises(FolderInUseError) as caught:
            store.prepare("run", new_run=True)
        assert "a process in another container is training there" in str(caught.value)
        assert "stop that run, or choose another folder with --models-dir" in str(caught.value)
        assert "process 1" not in str(caught.value)
    finally:
        process.communicate()  # it exits at the end of its input
    assert lock_holder(tmp_path) is None


def test_a_trainer_of_this_pid_namespace_is_seen_from_another_one(tmp_path: Path) -> None:
    look = f"from gpt_core.checkpoints.lock import lock_holder; print(lock_holder({str(tmp_path)!r}))"
    needs_namespaces()
    process = holding(tmp_path)
    try:
        seen = subprocess.run([*UNSHARE, sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
    finally:
        process.kill()
        process.wait()
    assert f"pid={process.pid}" in seen
    assert "is_certain=True" in seen


def test_a_lock_of_another_host_that_cannot_be_seen_is_not_certain(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("1\nanother-host\ngpt-tui train\nboot pid:[1]\n")
    holder = lock_holder(tmp_path)
    assert holder is not None
    assert (holder.is_here, holder.is_certain, holder.place) == (False, False, "on another-host")


def test_the_lock_of_this_host_before_a_restart_has_no_holder(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(f"{os.getpid()}\n{platform.node()}\ngpt-tui train\nearlier-boot pid:[1]\n")
    assert lock_holder(tmp_path) is None
