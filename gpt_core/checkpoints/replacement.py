"""Replacement of one run's files by another's in a models folder: at every instant one of the two runs is complete.

A run that will replace files of another one lists them in a journal before its first step, and renames the other's log.
It removes nothing at that point. Once a checkpoint of the new run is on disk, the listed files are removed; if the run
ends before, the log is renamed back. Whether a checkpoint was saved is read from the folder, so `settle` also does the
right thing after a crash at any instant: it completes the replacement or reverts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from gpt_core import files
from gpt_core.formats.checkpoint_header import CheckpointInfo, kind_of
from gpt_core.run_files import METRICS, PREVIOUS_METRICS

JOURNAL = ".replacing.json"
REPLACED_METRICS = ".metrics.jsonl.replaced"
"""Log of the run that is being replaced."""


class Replacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of the journal.

    Attributes:
        run_id: The new run.
        saved_at: Time of the newest checkpoint of the new run when the replacement began, 0 if it had none: the first
            one saved after this time completes the replacement.
        files: Files to remove, and the id of the run that each belongs to, "" for an unusable one.
    """

    run_id: str
    saved_at: float
    files: dict[str, str]

    def is_complete(self, infos: Iterable[CheckpointInfo]) -> bool:
        """Return True if the new run has saved a checkpoint, given the checkpoints in the folder."""
        return any(info.run_id == self.run_id and info.saved_at > self.saved_at for info in infos)

    def replaces(self, name: str, run_id: str) -> bool:
        """Return True if a file that belongs to `run_id` now is one of those to remove."""
        return kind_of(name) != "other" and self.files.get(name) == run_id


_JOURNAL = msgspec.json.Decoder(Replacement)


def has_journal(folder: Path) -> bool:
    """Return True if a replacement in this folder was begun and not settled."""
    return os.path.lexists(folder / JOURNAL)


def read_journal(folder: Path) -> Replacement | None:
    """Return the journal of a folder, None if there is none or it is damaged, which reverts the replacement."""
    try:
        with files.open_regular(folder / JOURNAL) as file:
            return _JOURNAL.decode(file.read() or b"")
    except (OSError, msgspec.DecodeError):
        return None


def begin(folder: Path, replacement: Replacement, *, rename_log: bool) -> None:
    """Write the journal, and rename the log of the folder if `rename_log`.

    Raises:
        OSError: A file cannot be written or renamed.
    """
    files.replace_file(folder / JOURNAL, [msgspec.json.encode(replacement)])
    if rename_log:
        _rename(folder / METRICS, folder / REPLACED_METRICS)


def settle(folder: Path, infos: Iterable[CheckpointInfo]) -> None:
    """Complete the replacement that the journal describes if the new run has saved a checkpoint, else revert it.

    The caller must hold the lock of the folder, and the folder must have a journal.

    Args:
        folder: The models folder.
        infos: All valid checkpoints in the folder.

    Raises:
        OSError: A file cannot be removed or renamed.
    """
    infos = list(infos)
    replacement = read_journal(folder)
    if replacement is not None and replacement.is_complete(infos):
        run_ids = {info.path.name: info.run_id for info in infos}
        for name in replacement.files:
            if replacement.replaces(name, run_ids.get(name, "")):
                (folder / name).unlink(missing_ok=True)
        (folder / REPLACED_METRICS).unlink(missing_ok=True)
    elif os.path.lexists(folder / REPLACED_METRICS):
        archive_log(folder)
        os.replace(folder / REPLACED_METRICS, folder / METRICS)
    files.sync_folder(folder)
    (folder / JOURNAL).unlink(missing_ok=True)


def archive_log(folder: Path) -> None:
    """Rename the log, if there is one, to `PREVIOUS_METRICS`: its run has no checkpoint in the folder.

    Raises:
        OSError: The log cannot be renamed.
    """
    _rename(folder / METRICS, folder / PREVIOUS_METRICS)


def _rename(path: Path, new_name: Path) -> None:
    """Rename a file if it exists. A folder of this name is left alone; opening the log reports it."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        os.replace(path, new_name)
