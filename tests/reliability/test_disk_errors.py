"""A failing system call of a save leaves the old checkpoint unchanged, and the next save succeeds."""

import errno
import os

import pytest

from gpt_core import files
from gpt_core.errors import SaveError
from gpt_core.formats.checkpoint import verify_checkpoint, write_checkpoint
from tests.core.checkpoint_samples import sample
from tests.reliability.counts import SHARE
from tests.reliability.faulty_calls import FailingCall

CALLS = ("open", "write", "fsync", "close", "link", "replace")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EROFS)[: 5 if SHARE else 2]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Return the path of a valid checkpoint; writes are small, so that a save needs many."""
    monkeypatch.setattr(files, "_WRITE_BYTES", 1000)
    path = tmp_path / "ckpt_latest.safetensors"
    write_checkpoint(path, sample(step=1))
    return path


def save_with(monkeypatch, path, name, failing):
    """Return True if a save succeeds with one call failing; check that a failed one gives the reason in one line."""
    message = ""
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing)
        if name == "link":  # `files` asks whether os.link supports follow_symlinks
            patch.setattr(os, "supports_follow_symlinks", {failing})
        try:
            write_checkpoint(path, sample(step=2))
        except SaveError as error:
            message = str(error)
    assert message.isprintable()
    assert not message or os.strerror(failing.number) in message
    return not message


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", CALLS)
def test_an_error_at_any_call_leaves_the_old_file_unchanged(path, monkeypatch, name, number):
    old = path.read_bytes()
    failures = 0
    for nth in range(1, 1000):
        failing = FailingCall(name, nth, number)
        saved = save_with(monkeypatch, path, name, failing)
        if not failing.failed:
            break
        if saved:
            assert name == "link", "only the second name of the old file is not needed"
            assert verify_checkpoint(path).step == 2
            path.write_bytes(old)
        else:
            failures += 1
            assert path.read_bytes() == old
        assert os.listdir(path.parent) == [path.name]
        write_checkpoint(path, sample(step=3))
        assert verify_checkpoint(path).step == 3
        path.write_bytes(old)
    assert saved, "the last save met no error"
    assert failures >= {"open": 2, "write": 20, "fsync": 2, "close": 1, "link": 0, "replace": 1}[name]


@pytest.mark.parametrize("name", ["write", "fsync", "close"])
def test_an_error_after_a_completed_call_also_fails_the_save(path, monkeypatch, name):
    old = path.read_bytes()
    for nth in (1, 2):
        failing = FailingCall(name, nth, errno.EIO, after=True)
        assert not save_with(monkeypatch, path, name, failing)
        assert path.read_bytes() == old
        assert os.listdir(path.parent) == [path.name]


def test_a_disk_that_accepts_one_byte_per_write_gets_a_complete_file(path, monkeypatch):
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1] if len(data) < 50 else data[:49]))
        write_checkpoint(path, sample(step=2))
    assert verify_checkpoint(path).step == 2


def test_without_an_old_file_an_error_leaves_none(path, monkeypatch):
    for name in ("write", "replace"):
        path.unlink(missing_ok=True)
        assert not save_with(monkeypatch, path, name, FailingCall(name, 1, errno.ENOSPC))
        assert os.listdir(path.parent) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_folder_sync_can_be_saved_to(path, monkeypatch, number):
    assert save_with(monkeypatch, path, "fsync", FailingCall("fsync", 2, number))
    assert verify_checkpoint(path).step == 2


def test_a_checkpoint_is_synced_before_it_is_renamed(path, monkeypatch):
    calls = []
    for name in ("write", "fsync", "close", "link", "replace", "unlink"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _real=real, _name=name, **k: (calls.append(_name), _real(*a, **k))[1])
    monkeypatch.setattr(os, "supports_follow_symlinks", {os.link})
    write_checkpoint(path, sample(step=2))
    order = [call for i, call in enumerate(calls) if i == 0 or calls[i - 1] != call]
    assert order == ["write", "fsync", "close", "link", "replace", "fsync", "close", "unlink"]
