"""The folder of a run's checkpoints: their names, who may write there, and which one to go on with.

One run to a folder: a new one never replaces another's files unasked. One trainer to a folder: a lock that the system
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple

from gpt_core import files
from gpt_core.config.settings import Settings
from gpt_core.errors import CheckpointError, ConfigError, FolderInUseError, RunExistsError, SaveError
from gpt_core.formats.checkpoint import Checkpoint, verify_checkpoint, write_checkpoint
from gpt_core.formats.checkpoint_header import CheckpointInfo, checkpoint_bytes, kind_of, peek_checkpoint

EXTENSION = ".safetensors"
METRICS = "metrics.jsonl"
LOCK = ".lock"
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
        self._lock: IO[bytes] | None = None
        self._last_saved_at = 0.0

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
        """Makes the folder ready for a run to save in, or refuses at once; returns the names of removed leftovers.

        Raises ConfigError where nothing can be written, FolderInUseError while another trainer holds the folder, and
        RunExistsError if checkpoints of another run are there (for a new run damaged ones count, too), unless
        `overwrite`, which removes them. A log without checkpoints of this run is not this run's, and is removed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            files.probe(self.path_of("latest"))
        except (OSError, ValueError) as error:
            self.close()
            raise ConfigError(
                f"models_dir: {self.folder} cannot be written: {files.reason(error)}; choose another with --models-dir"
            ) from None
        try:
            named = [found for found in self.list() if found.kind != "other"]
            own = [found for found in named if isinstance(found, CheckpointInfo) and found.run_id == run_id]
            strangers = [f for f in named if f not in own and (new_run or isinstance(f, CheckpointInfo))]
            if strangers and not overwrite:
                raise RunExistsError(self._refusal(strangers))
            self._remove([found.path for found in strangers] + ([] if own else [self.metrics_path]))
            removed = files.remove_leftovers(self.folder, lambda name: kind_of(name) != "other" or name == METRICS)
            return tuple(removed)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets another trainer have the folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def save(self, kind: str, checkpoint: Checkpoint, *, when_read: Callable[[], None] | None = None) -> Path:
        """Writes a checkpoint under its kind's name and returns where; then it is on disk.

        The number of an epoch's file is `checkpoint.state.epoch`; `when_read` is told when the tensors may change
        again. One save at a time. Raises SaveError; the file that was there is untouched. A best model is not replaced
        by one with a lower accuracy: after a resume from an older checkpoint that can be asked for.
        """
        path = self.path_of(kind, checkpoint.state.epoch)
        if kind == "best":
            self._keep_better(path, checkpoint)
        if not self._last_saved_at:
            own = (f for f in self.list() if isinstance(f, CheckpointInfo) and f.run_id == checkpoint.state.run_id)
            self._last_saved_at = max((info.saved_at for info in own), default=0.0)
        saved_at = max(time.time(), self._last_saved_at + _TICK_S)
        write_checkpoint(path, checkpoint, saved_at=saved_at, when_read=when_read)
        self._last_saved_at = saved_at
        return path

    def list(self) -> Listing:
        """Every checkpoint in the folder, by its header, newest first; the damaged ones at the end.

        Files of other names that end in .safetensors are listed with kind "other". An absent folder has none.
        """
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

    def _refusal(self, strangers: Listing) -> str:
        first = strangers[0]
        what = "damaged" if isinstance(first, DamagedCheckpoint) else f"step {first.step:,}"
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        return (
            f"{self.folder} holds another run's checkpoints: {first.path.name} ({what}){more}; go on with that run "
            "(--resume), use another folder (--models-dir DIR), or delete them (--overwrite)"
        )

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(f"models_dir: {path} cannot be removed: {files.reason(error)}") from None


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
