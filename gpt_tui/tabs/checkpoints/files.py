"""Files of the Checkpoints tab: listing, verification, deletion. Everything here uses the disk: for worker threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gpt_core.checkpoints.store import CheckpointStore, UnusableCheckpoint, unusable_checkpoint
from gpt_core.errors import CheckpointError
from gpt_core.files import reason
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.formats.checkpoint_header import EXTENSION, CheckpointInfo
from gpt_tui.tabs.checkpoints.file_thread import FileThread

MAX_FOLDERS = 100  # below the models folder; all of them are listed at each scan


class Stamp(NamedTuple):
    """Identity of a file's contents: with another size or time of modification it is verified again."""

    path: Path
    size: int
    modified_ns: int


class CheckpointFile(NamedTuple):
    """A checkpoint file, valid or not; `name` is its path below the models folder, without the extension."""

    stamp: Stamp
    name: str
    found: CheckpointInfo | UnusableCheckpoint

    @property
    def info(self) -> CheckpointInfo | None:
        """The contents of its header, None if the file is unusable by it."""
        return self.found if isinstance(self.found, CheckpointInfo) else None

    @property
    def saved_s(self) -> float:
        """The time it was saved, in seconds since 1970; the time of modification without a header."""
        return self.info.saved_at if self.info else self.stamp.modified_ns / 1e9


class FolderContents(NamedTuple):
    """The files under a models folder, newest first, those without a header last; errors of reading as `problems`."""

    files: tuple[CheckpointFile, ...] = ()
    problems: tuple[str, ...] = ()


class FolderScanner:
    """Lists a models folder and its subfolders repeatedly; reads the headers of new files only. Not thread-safe."""

    def __init__(self, models_dir: str) -> None:
        self._root = Path(models_dir)
        self._known: dict[Path, tuple[frozenset[Stamp], list[CheckpointFile]]] = {}

    def successor(self) -> FolderScanner:
        """Return a scanner of the same folder that knows what this one has read; this one may be scanning."""
        other = FolderScanner(str(self._root))
        other._known = self._known  # replaced by each scan, never changed
        return other

    def scan(self) -> FolderContents:
        """Return the files there are now. A missing folder is empty; raises no error."""
        files: list[CheckpointFile] = []
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
            if before and before[0] == stamps and not any(map(_may_change, before[1])):
                known[folder] = before
            else:
                known[folder] = (stamps, self._read(folder, stamps))
            files += known[folder][1]
        self._known = known
        return FolderContents(tuple(sorted(files, key=_newest_first)), tuple(problems))

    def _read(self, folder: Path, stamps: frozenset[Stamp]) -> list[CheckpointFile]:
        by_path = {stamp.path: stamp for stamp in stamps}
        before = self._known.get(folder, ((), []))[1]
        known = {file.stamp.path: file.found for file in before if file.stamp in stamps and not _may_change(file)}
        return [
            CheckpointFile(by_path[found.path], str(found.path.relative_to(self._root).with_suffix("")), found)
            for found in CheckpointStore(folder).list(known)
            if found.path in by_path  # a file added since is part of the next scan
        ]


def _may_change(file: CheckpointFile) -> bool:
    """Return True for a file that may become usable as it is, for example when the user gets the right to read it."""
    return isinstance(file.found, UnusableCheckpoint) and file.found.fault == "unusable"


def _newest_first(file: CheckpointFile) -> tuple[bool, float, int, str]:
    return file.info is None, -file.saved_s, -(file.info.step if file.info else 0), file.name


def _folders_in(root: Path) -> list[Path]:
    try:
        found = [entry.name for entry in os.scandir(root) if not entry.name.startswith(".") and entry.is_dir()]
    except (OSError, ValueError):
        return []  # the scan of the root itself reports the reason
    return [root / name for name in sorted(found)[:MAX_FOLDERS]]


def _stamps(folder: Path) -> frozenset[Stamp]:
    stamps = set()
    for entry in os.scandir(folder):
        if Path(entry.name).suffix == EXTENSION and not entry.name.startswith(".") and not entry.is_dir():
            try:
                status = entry.stat()
            except OSError:  # a broken link is listed, as a file that cannot be read
                status = entry.stat(follow_symlinks=False)
            stamps.add(stamp_of(folder / entry.name, status))
    return frozenset(stamps)


def stamp_of(path: Path, status: os.stat_result) -> Stamp:
    """Return the stamp of a file with this status."""
    return Stamp(path, status.st_size, status.st_mtime_ns)


class VerificationThread(FileThread[UnusableCheckpoint | None]):
    """Verifies the checksums of one file, in a daemon thread.

    Args:
        stamp: The file.
        on_progress: Called with the stamp and the fraction that is verified.
        on_end: Called with the stamp and None for a valid file, what is wrong with it, or an unexpected error.
    """

    def __init__(
        self,
        stamp: Stamp,
        on_progress: Callable[[Stamp, float], object],
        on_end: Callable[[Stamp, UnusableCheckpoint | str | None], object],
    ) -> None:
        failure = f"{stamp.path} could not be verified"
        super().__init__("verification", failure, partial(on_progress, stamp), partial(on_end, stamp), daemon=True)
        self.stamp = stamp

    def work(self) -> UnusableCheckpoint | None:
        """Verify the file."""
        try:
            verify_checkpoint(self.stamp.path, progress=self.report)
        except CheckpointError as error:
            return unusable_checkpoint(self.stamp.path, error)
        return None


def delete_file(stamp: Stamp) -> str:
    """Delete a file, or the link that it is, unless it has changed since; return the error as one line, else "".

    A missing file is no error. A file with another stamp was saved after the user was asked about it, and stays.
    """
    path = stamp.path
    try:
        if os.path.exists(path) and stamp_of(path, os.stat(path)) != stamp:
            return f"{path} was not deleted: it was saved again after the question"
        path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        return f"{path} was not deleted: {reason(error)}"
    return ""
