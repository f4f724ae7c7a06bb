"""The folder of a run's checkpoints: their names, who may write there, and which one to go on with.

One run to a folder: a new one never replaces another's files unasked, and where it was asked to, not before its own
first checkpoint is on disk (`replacement`). One trainer to a folder: a lock that the system
releases when its owner ends, however it ends. From save to save of a run `saved_at` grows, whatever the clock does, so
that "the newest" means what it says even after a jump back in time or a resume from an older file.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from gpt_core import files
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError, ConfigError, FolderInUseError, GptError, RunExistsError, SaveError
from gpt_core.formats.checkpoint import Checkpoint, verify_checkpoint, write_checkpoint
from gpt_core.formats.checkpoint_header import CheckpointInfo, checkpoint_bytes, kind_of, peek_checkpoint
from gpt_core.training import replacement
from gpt_core.training.metrics_log import MetricsLog
from gpt_core.training.replacement import LOG_SET_ASIDE, METRICS, Replacement

EXTENSION = ".safetensors"
LOCK = ".lock"
OUR_FILES = (METRICS, replacement.JOURNAL)  # besides checkpoints, that are replaced as a whole
_NAMES = {"latest": "ckpt_latest", "best": "best_model", "final": "transformer"}
MOST_OF_A_COMMAND = 100  # characters
_TICK_S = 1e-3  # by how much a save is later than the one before when the clock says otherwise


class DamagedCheckpoint(NamedTuple):
    """A checkpoint that cannot be used, and why, in one line that names it."""

    path: Path
    kind: str
    error: str


Listing = list[CheckpointInfo | DamagedCheckpoint]


class Found(NamedTuple):
    """The checkpoint to use, None if there is none, and the damaged ones that were passed over on the way."""

    info: CheckpointInfo | None
    damaged: list[DamagedCheckpoint]


class CheckpointStore:
    """The checkpoints in one folder. Looking needs no more; writing needs `prepare` first, and `close` at the end."""

    def __init__(self, models_dir: Path | str) -> None:
        self.folder = Path(models_dir)
        self.is_replacing = False
        """Whether the next save replaces another run's files, or newer checkpoints of this run."""
        self._lock: IO[bytes] | None = None
        self._last_saved_at = 0.0
        self._own: Sequence[CheckpointInfo] = ()
        self._replaced: Sequence[CheckpointInfo | DamagedCheckpoint] = ()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def metrics_path(self) -> Path:
        """The log of the run's events."""
        return self.folder / METRICS

    def path_of(self, kind: str, epoch: int | None = None) -> Path:
        """Where a checkpoint of this kind belongs: latest, best, final, or epoch (completed epochs so far)."""
        stem = f"epoch_{epoch or 0:03d}" if kind == "epoch" else _NAMES[kind]
        return self.folder / (stem + EXTENSION)

    def prepare(self, run_id: str, *, new_run: bool, overwrite: bool = False) -> tuple[str, ...]:
        """Make the folder ready for a run to save in, or refuse at once; return the names of leftovers removed.

        Raises ConfigError where nothing can be written, FolderInUseError while another trainer holds the folder, and
        RunExistsError if checkpoints of another run are there (for a new run damaged ones count, too), unless
        `overwrite`. Then they are removed at the first save. What an earlier replacement left unfinished is settled.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            files.probe(self.path_of("latest"))
            self._settle()
        except (OSError, ValueError) as error:
            self.close()
            raise ConfigError(
                f"models_dir: {self.folder} cannot be written: {files.reason(error)}; choose another with --models-dir"
            ) from None
        try:
            named = [found for found in self.list() if found.kind != "other"]
            self._own = [found for found in named if isinstance(found, CheckpointInfo) and found.run_id == run_id]
            self._replaced = [f for f in named if f not in self._own and (new_run or isinstance(f, CheckpointInfo))]
            if self._replaced and not overwrite:
                raise RunExistsError(self._refusal(self._replaced))
            removed = files.remove_leftovers(self.folder, lambda name: kind_of(name) != "other" or name in OUR_FILES)
            return tuple(removed)
        except BaseException:
            self.close()
            raise

    @property
    def has_own_log(self) -> bool:
        """Whether the log in the folder is that of the run prepared for, which has checkpoints here."""
        return bool(self._own)

    def begin_log(self, run_id: str, step: int) -> MetricsLog:
        """Open the log of the run prepared for, which begins at or is resumed at `step`. Nothing is lost by that.

        The log of a run whose checkpoints the first save replaces is put back by `close` if there is no save; so is
        the part of this run's own log that belongs to checkpoints later than `step`. A log without checkpoints is
        renamed. Raises ConfigError.
        """
        is_own = self.has_own_log
        goes_back = is_own and step < max(info.step for info in self._own)
        try:
            if self._replaced or goes_back:
                saved_at = max((info.saved_at for info in self._own), default=0.0)
                replaced = {found.path.name: _run_of(found) for found in self._replaced}
                self.is_replacing = True
                replacement.begin(self.folder, Replacement(run_id, saved_at, replaced), log=goes_back or not is_own)
            elif not is_own:
                replacement.set_log_aside(self.folder)
        except OSError as error:
            raise ConfigError(
                f"models_dir: {self.folder} cannot be written: {files.reason(error)}; choose another with --models-dir"
            ) from None
        before = self.folder / LOG_SET_ASIDE if goes_back else None
        return MetricsLog(self.metrics_path, resume_step=step if is_own else None, before=before)

    def close(self) -> None:
        """Release the folder to other trainers; a replacement that no save has completed is undone."""
        if self._lock and self.is_replacing:
            with contextlib.suppress(OSError):  # the next run in this folder settles it
                self._settle()
        self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def save(self, kind: str, checkpoint: Checkpoint, *, when_read: Callable[[], None] | None = None) -> Path:
        """Writes a checkpoint under its kind's name and returns where; then it is on disk.

        The number of an epoch's file is `checkpoint.state.epoch`; `when_read` is called when the tensors may change
        again. One save at a time. A folder that was moved or removed meanwhile is made again. Raises SaveError; the
        file that was there is untouched. A best model is not replaced by one with a lower accuracy: after a resume from
        an older checkpoint that can be asked for.
        """
        path = self.path_of(kind, checkpoint.state.epoch)
        self._keep_folder(checkpoint.state.run_id, checkpoint.state.step)
        if kind == "best":
            self._keep_better(path, checkpoint)
        if not self._last_saved_at:
            own = (f for f in self.list() if isinstance(f, CheckpointInfo) and f.run_id == checkpoint.state.run_id)
            self._last_saved_at = max((info.saved_at for info in own), default=0.0)
        saved_at = max(time.time(), self._last_saved_at + _TICK_S)
        write_checkpoint(path, checkpoint, saved_at=saved_at, when_read=when_read)
        self._last_saved_at = saved_at
        if self.is_replacing:
            with contextlib.suppress(OSError):  # the next save tries it again
                self._settle()
        return path

    def list(self) -> Listing:
        """Every checkpoint in the folder, by its header, newest first; the damaged ones at the end.

        Files of other names that end in .safetensors are listed with kind "other". An absent folder has none. Files
        that a later run has replaced, and that a crash has kept from being removed, are left out.
        """
        journal = replacement.read_journal(self.folder)
        listing = self._everything()
        if journal is None or not journal.is_published(_readable(listing)):
            return listing
        return [found for found in listing if not journal.replaces(found.path.name, _run_of(found))]

    def _everything(self) -> Listing:
        whole: list[CheckpointInfo] = []
        broken: list[DamagedCheckpoint] = []
        try:
            paths = sorted(p for p in self.folder.iterdir() if p.suffix == EXTENSION and not p.name.startswith("."))
        except (OSError, ValueError):
            paths = []
        for path in paths:
            try:
                whole.append(peek_checkpoint(path))
            except CheckpointError as error:
                broken.append(DamagedCheckpoint(path, kind_of(path.name), str(error)))
        return [*sorted(whole, key=lambda info: (info.saved_at, info.step), reverse=True), *broken]

    def resumable(self) -> Found:
        """The newest checkpoint that a run can go on from and that is whole to the last bit.

        Only this program's own names count, and only files with moments; the final one, which holds the best weights
        and not the last, comes after all others.
        """
        listing = [found for found in self.list() if found.kind != "other"]
        return _first_whole(resume_candidates(listing), listing, moments=True)

    def for_chat(self) -> Found:
        """The checkpoint to generate from: the best model if it is whole, else the newest whole one."""
        listing = self.list()
        return _first_whole(chat_candidates(listing), listing, moments=False)

    def space_warnings(self, settings: Settings) -> tuple[str, ...]:
        """One line if the disk has not room for two more checkpoints of this shape, else none."""
        needed = 2 * checkpoint_bytes(settings.shape)
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return ()
        if free >= needed:
            return ()
        room = f"{free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB wanted for two checkpoints"
        return (f"{self.folder}: {room}; make room",)

    def _keep_better(self, path: Path, checkpoint: Checkpoint) -> None:
        try:
            there = peek_checkpoint(path)
        except CheckpointError:
            return
        if there.run_id == checkpoint.state.run_id and there.state.best_accuracy > checkpoint.state.best_accuracy:
            raise SaveError(
                f"{path} was kept: its accuracy ({there.state.best_accuracy:.4f}, step {there.state.best_step:,}) is "
                f"better than {checkpoint.state.best_accuracy:.4f}; move it away to have both"
            )

    def _keep_folder(self, run_id: str, step: int) -> None:
        """Make the folder and its lock again where they were moved or removed. Raises SaveError if that fails.

        A folder that holds another run by now is left alone.
        """
        if self._lock is None or self._holds_lock():
            return
        moved, self._lock = self._lock, None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            named = [found for found in _readable(self.list()) if found.kind != "other"]
            if others := [info for info in named if info.run_id != run_id]:
                raise RunExistsError(f"{self.folder} holds another run now: {others[0].path.name}")
        except (OSError, ValueError, FolderInUseError, RunExistsError) as error:
            self._release()
            self._lock = moved
            gone = f"{self.folder} was moved or removed"
            why = str(error) if isinstance(error, GptError) else f"{gone}, and not made again: {files.reason(error)}"
            raise SaveError(f"not saved at step {step:,}: {why}") from error
        moved.close()

    def _holds_lock(self) -> bool:
        """Return whether the lock file in the folder is the one that this store holds."""
        assert self._lock is not None
        try:
            return os.path.samestat(os.stat(self.folder / LOCK), os.fstat(self._lock.fileno()))
        except OSError:
            return False

    def _take_lock(self) -> None:
        if self._lock:
            return
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        lock = os.fdopen(os.open(self.folder / LOCK, flags, 0o666), "r+b", buffering=0)
        if not _lock_file(lock):
            holder = _holder_in(lock)
            lock.close()
            raise FolderInUseError(
                f"{self.folder} is in use: {holder}; stop it, or choose another folder with --models-dir"
            )
        lock.truncate(0)
        lock.write(_this_process().encode("utf-8", "backslashreplace"))
        self._lock = lock

    def _settle(self) -> None:
        replacement.settle(self.folder, _readable(self._everything()))
        self.is_replacing = False

    def _refusal(self, strangers: Sequence[CheckpointInfo | DamagedCheckpoint]) -> str:
        first = strangers[0]
        what = "damaged" if isinstance(first, DamagedCheckpoint) else f"step {first.step:,}"
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        return (
            f"{self.folder} holds another run's checkpoints: {first.path.name} ({what}){more}; go on with that run "
            "(--resume), use another folder (--models-dir DIR), or replace them (--overwrite)"
        )


def _readable(listing: Listing) -> list[CheckpointInfo]:
    return [found for found in listing if isinstance(found, CheckpointInfo)]


def _run_of(found: CheckpointInfo | DamagedCheckpoint) -> str:
    """The id of a file's run, "" for a damaged one."""
    return found.run_id if isinstance(found, CheckpointInfo) else ""


def resume_candidates(listing: Listing) -> list[CheckpointInfo]:
    """Return the checkpoints of a listing to resume from, in the order to try them.

    They have a name of this program and the optimizer's state. The final checkpoint, which holds the best parameters
    instead of the last ones, comes after all others.
    """
    ours = [info for info in listing if isinstance(info, CheckpointInfo) and info.kind != "other" and info.has_moments]
    return sorted(ours, key=lambda info: info.kind == "final")


def chat_candidates(listing: Listing) -> list[CheckpointInfo]:
    """Return the checkpoints of a listing to generate text from, in the order to try them.

    `best_model` comes first, files of other names come last.
    """
    valid = [info for info in listing if isinstance(info, CheckpointInfo)]
    return sorted(valid, key=lambda info: (info.kind != "best", info.kind == "other"))


def _first_whole(candidates: list[CheckpointInfo], listing: Listing, *, moments: bool) -> Found:
    damaged = [found for found in listing if isinstance(found, DamagedCheckpoint)]
    for info in candidates:
        try:
            return Found(verify_checkpoint(info.path, moments=moments), damaged)
        except CheckpointError as error:
            damaged.append(DamagedCheckpoint(info.path, info.kind, str(error)))
    return Found(None, damaged)


def _this_process() -> str:
    """What a lock says of its owner: process number, machine and command, a line each."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:MOST_OF_A_COMMAND]
    return "\n".join([str(os.getpid()), platform.node(), *command.splitlines()[:1]]) + "\n"


def _holder_in(lock: IO[bytes]) -> str:
    """Who holds a folder, in words, by what its lock says."""
    lines = (lock.read(1000) or b"").decode("utf-8", "replace").splitlines()
    process, machine, command = (*lines, "", "", "")[:3]
    where = f" on {machine}" if machine not in ("", platform.node()) else ""
    return f"process {process[:20] or '?'}{where} is training there" + (f" ({command})" if command else "")


def _lock_file(file: IO[bytes]) -> bool:
    """Whether this process now holds the lock on an open file; it is released when the file is closed.

    File systems without locks count as locked: then nothing keeps a second trainer out.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 30)  # far from the process number, which stays readable
        with contextlib.suppress(OSError):
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
            return True
        file.seek(0)
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
