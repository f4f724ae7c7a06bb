"""The files of the Checkpoints tab: found, checked and deleted. All of it reads or writes disks: for threads only."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gpt_core.checkpoints.store import EXTENSION, CheckpointStore, DamagedCheckpoint
from gpt_core.errors import CheckpointError
from gpt_core.files import reason
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_tui.shared.thread_priority import CHECKING, yield_to_others

MOST_FOLDERS = 100  # below the models folder; more are a mistake, and every one is looked at again and again
PROGRESS_STEP = 0.01  # of a file, between two reports


class Stamp(NamedTuple):
    """A file as it lay there: another size or time is another file."""

    path: Path
    size: int
    modified_ns: int


class StoredFile(NamedTuple):
    """A checkpoint, or a file that would be one; `name` is its path below the models folder, without the extension."""

    stamp: Stamp
    name: str
    found: CheckpointInfo | DamagedCheckpoint

    @property
    def info(self) -> CheckpointInfo | None:
        """What its header says, if that is in order."""
        return self.found if isinstance(self.found, CheckpointInfo) else None

    @property
    def saved_s(self) -> float:
        """When it was saved, in seconds since 1970; what the disk says where the header says nothing."""
        return self.info.saved_at if self.info else self.stamp.modified_ns / 1e9


class FolderView(NamedTuple):
    """What is under a models folder, newest first, what has no header at the end; and why some could not be seen."""

    files: tuple[StoredFile, ...] = ()
    problems: tuple[str, ...] = ()


class FolderReader:
    """Looks at a models folder and the folders in it, again and again; headers are read only where files changed.

    One look at a time.
    """

    def __init__(self, models_dir: str) -> None:
        self._root = Path(models_dir)
        self._known: dict[Path, tuple[frozenset[Stamp], list[StoredFile]]] = {}

    def look(self) -> FolderView:
        """What is there now. A folder that does not exist has nothing in it; no error is raised."""
        files: list[StoredFile] = []
        problems: list[str] = []
        known = {}
        for folder in (self._root, *_folders_in(self._root)):
            try:
                stamps = _stamps(folder)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                problems.append(f"{folder} cannot be read: {reason(error)}")
                continue
            before = self._known.get(folder)
            known[folder] = before if before and before[0] == stamps else (stamps, self._read(folder, stamps))
            files += known[folder][1]
        self._known = known
        return FolderView(tuple(sorted(files, key=_newest_first)), tuple(problems))

    def _read(self, folder: Path, stamps: frozenset[Stamp]) -> list[StoredFile]:
        by_path = {stamp.path: stamp for stamp in stamps}
        return [
            StoredFile(by_path[found.path], str(found.path.relative_to(self._root).with_suffix("")), found)
            for found in CheckpointStore(folder).list()
            if found.path in by_path  # a file that has come since is seen the next time
        ]


def _newest_first(file: StoredFile) -> tuple[bool, float, int, str]:
    return file.info is None, -file.saved_s, -(file.info.step if file.info else 0), file.name


def _folders_in(root: Path) -> list[Path]:
    try:
        found = [entry.name for entry in os.scandir(root) if not entry.name.startswith(".") and entry.is_dir()]
    except (OSError, ValueError):
        return []  # the look at the root itself says why
    return [root / name for name in sorted(found)[:MOST_FOLDERS]]


def _stamps(folder: Path) -> frozenset[Stamp]:
    stamps = set()
    for entry in os.scandir(folder):
        if Path(entry.name).suffix == EXTENSION and not entry.name.startswith("."):
            try:
                status = entry.stat()
            except OSError:  # a link to nowhere: listed all the same, as what cannot be read
                status = entry.stat(follow_symlinks=False)
            stamps.add(_stamp(folder / entry.name, status))
    return frozenset(stamps)


def _stamp(path: Path, status: os.stat_result) -> Stamp:
    return Stamp(path, status.st_size, status.st_mtime_ns)


class CheckStoppedError(Exception):
    """Raised through a check when it is no longer wanted."""


class Check(threading.Thread):
    """One file, read through and held to its checksums in a thread of its own, after everything else in importance.

    `told` hears of a share that is done, `ended` of the end with what is wrong, "" if the file is whole; both in this
    thread, and neither any more once `stop` was called. The process does not wait for it when it ends.
    """

    def __init__(
        self, stamp: Stamp, told: Callable[[Stamp, float], object], ended: Callable[[Stamp, str], object]
    ) -> None:
        super().__init__(name="check", daemon=True)
        self.stamp = stamp
        self._told = told
        self._ended = ended
        self._stopped = threading.Event()
        self._last = 0.0

    def stop(self) -> None:
        """It is no longer wanted: it ends at the next tensor, without a word."""
        self._stopped.set()

    def run(self) -> None:
        """The check."""
        yield_to_others(CHECKING)
        error = ""
        try:
            verify_checkpoint(self.stamp.path, progress=self._progressed)
        except CheckStoppedError:
            return
        except CheckpointError as damage:
            error = str(damage)
        except Exception as unforeseen:
            error = f"{self.stamp.path} could not be checked: {type(unforeseen).__name__}: {unforeseen}"
        if not self._stopped.is_set():
            with suppress(RuntimeError):  # the app is gone
                self._ended(self.stamp, error)

    def _progressed(self, share: float) -> None:
        if self._stopped.is_set():
            raise CheckStoppedError
        if share - self._last >= PROGRESS_STEP:
            self._last = share
            with suppress(RuntimeError):
                self._told(self.stamp, share)


def delete_file(path: Path, stamp: Stamp | None = None) -> str:
    """Remove a file, or the link that it is; a file that is gone is no error. Return why it was not removed, else "".

    With `stamp`, a file that is another one by now stays: it was saved after the user was asked about it.
    """
    try:
        if stamp is not None and os.path.exists(path) and _stamp(path, os.stat(path)) != stamp:
            return f"{path} was not deleted: it was saved again after the question"
        path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        return f"{path} was not deleted: {reason(error)}"
    return ""
