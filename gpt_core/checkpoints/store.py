"""Checkpoints of one models folder: file names, lock, saving, and which one to resume or to chat with.

A folder belongs to one run: a new run replaces the files of another one only if the user said so, and not before its
own first checkpoint is on disk (`replacement`). One trainer at a time may write to it (`lock`). `saved_at` increases
from save to save of a run, whatever the clock does, so that "newest" is right after the clock was set back, and after
a resume from an older checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gpt_core import files
from gpt_core.checkpoints import replacement
from gpt_core.checkpoints.folders import next_free_folder
from gpt_core.checkpoints.lock import FolderLock
from gpt_core.checkpoints.replacement import REPLACED_METRICS, Replacement
from gpt_core.config.settings import Settings
from gpt_core.errors import (
    BetterModelError,
    CheckpointError,
    ConfigError,
    DamagedCheckpointError,
    FolderInUseError,
    GptError,
    NotACheckpointError,
    RunExistsError,
    SaveError,
)
from gpt_core.formats.checkpoint import Checkpoint, read_checkpoint, same_eval_text, write_checkpoint
from gpt_core.formats.checkpoint_header import (
    EXTENSION,
    CheckpointInfo,
    checkpoint_bytes,
    checkpoint_name,
    kind_of,
    peek_checkpoint,
)
from gpt_core.run_files import METRICS

OTHER_FILES = (METRICS, replacement.JOURNAL)  # besides checkpoints, that are replaced atomically
_TICK_S = 1e-3  # between two saves whose order the clock does not show

Fault = Literal["foreign", "damaged", "unusable"]
_FAULTS: Mapping[Fault, str] = {
    "foreign": "not a gpt-tui checkpoint", "damaged": "damaged", "unusable": "not usable here",
}  # fmt: skip


class UnusableCheckpoint(NamedTuple):
    """A file that cannot be used.

    Attributes:
        path: The file.
        kind: Kind of a checkpoint by its name.
        error: One line that names the file and the reason.
        fault: "foreign" if, by its content, this program did not save it; "damaged" if it is not as it was saved; else
            "unusable": it is of another version, needs a tokenizer or an optimizer that is not registered, or cannot be
            read.
    """

    path: Path
    kind: str
    error: str
    fault: Fault


Listing = list[CheckpointInfo | UnusableCheckpoint]
Known = Mapping[Path, CheckpointInfo | UnusableCheckpoint]


class Loaded(NamedTuple):
    """A verified checkpoint, None if there is none, and the unusable ones that would have been preferred."""

    checkpoint: Checkpoint | None
    unusable: list[UnusableCheckpoint]


class LogStart(NamedTuple):
    """Start of a log: the step after which it is continued, None for a new log, and the log to copy it from."""

    resume_step: int | None
    before: Path | None


def resume_candidates(listing: Iterable[CheckpointInfo | UnusableCheckpoint]) -> list[CheckpointInfo]:
    """Return the checkpoints of a listing that can be resumed, in order of preference.

    These are the program's own files with an optimizer state: the newest first, and last the final one, which holds
    the best weights rather than the last.
    """
    infos = [info for info in _infos(listing) if info.kind != "other" and info.has_optimizer_state]
    return sorted(infos, key=lambda info: info.kind == "final")


def chat_candidates(listing: Iterable[CheckpointInfo | UnusableCheckpoint]) -> list[CheckpointInfo]:
    """Return the checkpoints of a listing in order of preference for generating text.

    The best model first, then the newest, then files with names that the user chose.
    """
    return sorted(_infos(listing), key=lambda info: (info.kind != "best", info.kind == "other"))


class CheckpointStore:
    """Checkpoints in one folder.

    Listing and loading need no preparation; `save` needs `prepare` before it, and `close` at the end.

    Attributes:
        folder: The models folder.
        is_replacing: True if the next save replaces files of another run, or newer checkpoints of this run.
    """

    def __init__(self, models_dir: Path | str) -> None:
        self.folder = Path(models_dir)
        self.is_replacing = False
        self._lock = FolderLock(self.folder)
        self._last_saved_at = 0.0
        self._own: Sequence[CheckpointInfo] = ()
        self._replaced: Sequence[CheckpointInfo | UnusableCheckpoint] = ()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def metrics_path(self) -> Path:
        """Log of the run's events."""
        return self.folder / METRICS

    def path_of(self, kind: str, epoch: int | None = None) -> Path:
        """Return the path of a checkpoint of this kind: latest, best, final, or epoch with the completed epochs."""
        return self.folder / checkpoint_name(kind, epoch or 0)

    # ---- reading

    def list(self, known: Known | None = None) -> Listing:
        """Return all checkpoints by their headers, newest first, and unusable ones at the end.

        Files with other names that end in .safetensors have the kind "other". A folder that does not exist has no
        checkpoints. Files that a later run has replaced, and that a crash kept from being removed, are left out.

        Args:
            known: Files that have not changed since they were read, which are not read again.
        """
        journal = replacement.read_journal(self.folder)
        listing = self._all_files(known)
        if journal is None or not journal.is_complete(_infos(listing)):
            return listing
        return [found for found in listing if not journal.replaces(found.path.name, _run_id(found))]

    def list_named(self) -> Listing:
        """Return the checkpoints with the names that runs give them: all but those of kind "other"."""
        return [found for found in self.list() if found.kind != "other"]

    def load_for_resume(self) -> Loaded:
        """Load the newest checkpoint that can be resumed; an unusable one is skipped for the next.

        Raises:
            ConfigError: The folder is a file.
        """
        self._require_folder()
        named = self.list_named()
        return _load_first(resume_candidates(named), _unusable(named), optimizer_state=True)

    def load_for_chat(self) -> Loaded:
        """Load the best model, else the newest checkpoint, without optimizer state; an unusable one is skipped.

        Raises:
            ConfigError: The folder is a file.
        """
        self._require_folder()
        listing = self.list()
        return _load_first(chat_candidates(listing), _unusable(listing), optimizer_state=False)

    def space_warning(self, settings: Settings, epoch_files: int = 0) -> str:
        """Return a line if there is not enough disk space for the checkpoints that a run will add, else "".

        Args:
            settings: Settings of the run.
            epoch_files: Number of `epoch_NNN` files that it will save. Two more checkpoints are counted besides.
        """
        count = 2 + epoch_files
        needed = count * checkpoint_bytes(settings)
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return ""
        if free >= needed:
            return ""
        space = f"{free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB needed for {count:,} checkpoints"
        return f"{self.folder}: {space}; free some disk space"

    # ---- writing

    def prepare(self, run_id: str, *, new_run: bool, overwrite: bool = False) -> None:
        """Create the folder if needed, lock it, and check that this run may save in it.

        An earlier replacement that was interrupted is completed or reverted, and temporary files of interrupted saves
        are removed.

        Args:
            run_id: The run that will save.
            new_run: False for a run that is resumed: unusable files do not prevent it.
            overwrite: True to allow replacing files of another run; they are removed at the first save.

        Raises:
            ConfigError: The folder is a file, or cannot be written.
            FolderInUseError: Another trainer holds the lock.
            RunExistsError: The folder contains checkpoints of another run, and `overwrite` is False.
        """
        self._require_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            files.probe(self.path_of("latest"))
            self._settle()
        except (OSError, ValueError) as error:
            self.close()
            raise self._not_writable(error) from None
        try:
            named = self.list_named()
            self._own = [info for info in _infos(named) if info.run_id == run_id]
            self._replaced = [f for f in named if f not in self._own and (new_run or isinstance(f, CheckpointInfo))]
            if self._replaced and not overwrite:
                raise self._refusal(self._replaced)
            files.remove_leftovers(self.folder, _is_own_name)
        except BaseException:
            self.close()
            raise

    @property
    def has_own_log(self) -> bool:
        """True if the log in the folder belongs to the run that `prepare` was called for."""
        return bool(self._own)

    def begin_run(self, run_id: str, step: int) -> LogStart:
        """Begin a run that starts, or is resumed, at `step`; return how to open its log. No data is lost by this.

        If the first save will replace another run's checkpoints, their log is renamed, and `close` renames it back if
        there was no save; the same holds for the part of this run's own log after `step`. A log of a run without
        checkpoints is renamed.

        Raises:
            ConfigError: The folder cannot be written.
        """
        is_own = self.has_own_log
        goes_back = is_own and step < max(info.step for info in self._own)
        try:
            if self._replaced or goes_back:
                saved_at = max((info.saved_at for info in self._own), default=0.0)
                replaced = {found.path.name: _run_id(found) for found in self._replaced}
                self.is_replacing = True
                journal = Replacement(run_id, saved_at, replaced)
                replacement.begin(self.folder, journal, rename_log=goes_back or not is_own)
            elif not is_own:
                replacement.archive_log(self.folder)
        except OSError as error:
            raise self._not_writable(error) from None
        return LogStart(step if is_own else None, self.folder / REPLACED_METRICS if goes_back else None)

    def save(self, kind: str, checkpoint: Checkpoint, *, when_read: Callable[[], None] | None = None) -> Path:
        """Save a checkpoint under the name of its kind; on return it is on disk.

        Call it from one thread at a time. A folder that was moved or removed is created again. A best model is not
        replaced by one with a worse score on the same eval text, which a run resumed from an older checkpoint may have.

        Args:
            kind: latest, best, final, or epoch, whose number is `checkpoint.state.epoch`.
            checkpoint: What to save.
            when_read: Called once the tensors may change again.

        Returns:
            The path of the file.

        Raises:
            SaveError: It was not saved; a file that existed is unchanged.
        """
        path = self.path_of(kind, checkpoint.state.epoch)
        self._restore_folder(checkpoint.run_id, checkpoint.step)
        if kind == "best":
            self._check_is_better(path, checkpoint)
        if not self._last_saved_at:
            own = (info.saved_at for info in _infos(self.list()) if info.run_id == checkpoint.run_id)
            self._last_saved_at = max(own, default=0.0)
        saved_at = max(time.time(), self._last_saved_at + _TICK_S)
        write_checkpoint(path, checkpoint, saved_at=saved_at, when_read=when_read)
        self._last_saved_at = saved_at
        if self.is_replacing:
            with contextlib.suppress(OSError):  # the next save tries again
                self._settle()
        return path

    def close(self) -> None:
        """Release the lock; a replacement that no save has completed is reverted."""
        if self._lock.is_held and self.is_replacing:
            with contextlib.suppress(OSError):  # the next run in this folder settles it
                self._settle()
        self._lock.release()

    # ---- internal

    def _all_files(self, known: Known | None = None) -> Listing:
        valid: list[CheckpointInfo] = []
        unusable: list[UnusableCheckpoint] = []
        try:
            paths = sorted(p for p in self.folder.iterdir() if p.suffix == EXTENSION and not p.name.startswith("."))
            paths = [p for p in paths if kind_of(p.name) != "other" or not os.path.isdir(p)]
        except (OSError, ValueError):
            paths = []
        for path in paths:
            found = (known or {}).get(path) or _read_header(path)
            if isinstance(found, CheckpointInfo):
                valid.append(found)
            else:
                unusable.append(found)
        return [*sorted(valid, key=lambda info: (info.saved_at, info.step), reverse=True), *unusable]

    def _check_is_better(self, path: Path, checkpoint: Checkpoint) -> None:
        """Raise BetterModelError if the best model on disk is a better one of the same run."""
        try:
            saved = peek_checkpoint(path)
        except CheckpointError:
            return
        if saved.run_id != checkpoint.run_id or not same_eval_text(saved, checkpoint):
            return
        metric, own, new = checkpoint.settings.best_metric, saved.state, checkpoint.state
        if metric == "accuracy":
            better, scores = own.best_accuracy > new.best_accuracy, (own.best_accuracy, new.best_accuracy)
        elif own.best_loss is None or new.best_loss is None:
            return
        else:
            better, scores = own.best_loss < new.best_loss, (own.best_loss, new.best_loss)
        if better:
            raise BetterModelError(
                f"{path} was not replaced: its eval {metric} ({scores[0]:.4f}, step {own.best_step:,}) is better than "
                f"{scores[1]:.4f}; move it away to save both"
            )

    def _restore_folder(self, run_id: str, step: int) -> None:
        """Create the folder and its lock again if they were moved or removed.

        Raises:
            SaveError: This failed, or the folder contains another run by now.
        """
        if not self._lock.is_held or self._lock.is_in_place:
            return
        moved, self._lock = self._lock, FolderLock(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if others := [info for info in _infos(self.list_named()) if info.run_id != run_id]:
                raise RunExistsError(f"{self.folder} now contains another run: {others[0].path.name}")
        except (OSError, ValueError, FolderInUseError, RunExistsError) as error:
            self._lock.release()
            self._lock = moved
            gone = f"{self.folder} was moved or removed"
            fault = str(error) if isinstance(error, GptError) else f"{gone}, and not restored: {files.reason(error)}"
            raise SaveError(f"not saved at step {step:,}: {fault}") from error
        moved.release()

    def _settle(self) -> None:
        if replacement.has_journal(self.folder):
            replacement.settle(self.folder, _infos(self._all_files()))
        self.is_replacing = False

    def _require_folder(self) -> None:
        if problem := files.folder_problem(self.folder):
            raise ConfigError(f"models_dir: {self.folder} {problem}", "; choose another with --models-dir")

    def _not_writable(self, error: OSError | ValueError) -> ConfigError:
        return ConfigError(
            f"models_dir: {self.folder} cannot be written: {files.reason(error)}", "; choose another with --models-dir"
        )

    def _refusal(self, others: Sequence[CheckpointInfo | UnusableCheckpoint]) -> RunExistsError:
        first = others[0]
        state = _FAULTS[first.fault] if isinstance(first, UnusableCheckpoint) else f"step {first.step:,}"
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        beside = shlex.quote(str(next_free_folder(self.folder)))
        return RunExistsError(
            f"{self.folder} holds another run's checkpoints: {first.path.name} ({state}){more}",
            f"; resume that run (--resume), start beside it (--models-dir {beside}), or replace them (--overwrite)",
        )


def _read_header(path: Path) -> CheckpointInfo | UnusableCheckpoint:
    try:
        return peek_checkpoint(path)
    except CheckpointError as error:
        return unusable_checkpoint(path, error)


def unusable_checkpoint(path: Path, error: CheckpointError) -> UnusableCheckpoint:
    """Describe a file that was refused with this error."""
    fault: Fault = "unusable"
    if isinstance(error, NotACheckpointError):
        fault = "foreign"
    elif isinstance(error, DamagedCheckpointError):
        fault = "damaged"
    return UnusableCheckpoint(path, kind_of(path.name), str(error), fault)


def _infos(listing: Iterable[CheckpointInfo | UnusableCheckpoint]) -> list[CheckpointInfo]:
    return [found for found in listing if isinstance(found, CheckpointInfo)]


def _unusable(listing: Iterable[CheckpointInfo | UnusableCheckpoint]) -> list[UnusableCheckpoint]:
    return [found for found in listing if isinstance(found, UnusableCheckpoint)]


def _run_id(found: CheckpointInfo | UnusableCheckpoint) -> str:
    """Return the id of the run that a file belongs to, "" for an unusable one."""
    return found.run_id if isinstance(found, CheckpointInfo) else ""


def _is_own_name(name: str) -> bool:
    """Return True for the names of files that this program replaces in a models folder."""
    return kind_of(name) != "other" or name in OTHER_FILES


def _load_first(
    candidates: Iterable[CheckpointInfo], unusable: list[UnusableCheckpoint], *, optimizer_state: bool
) -> Loaded:
    """Load the first candidate that is valid, and add those before it to the unusable ones."""
    for info in candidates:
        try:
            return Loaded(read_checkpoint(info.path, optimizer_state=optimizer_state), unusable)
        except CheckpointError as error:
            unusable = [*unusable, unusable_checkpoint(info.path, error)]
    return Loaded(None, unusable)
