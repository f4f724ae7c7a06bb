"""Replacing one run's files by another's in a models folder, so that at every instant one of the two is complete.

A run that may replace another's files notes them in a journal before its first step, and sets the other's log aside.
Nothing is removed then. Once a checkpoint of the new run is on disk, the noted files are removed; until then, ending
the run puts the log back. Whether a checkpoint was saved is read from the folder, so that `settle` is right after a
crash too, at any instant: it completes the replacement or undoes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from gpt_core import files
from gpt_core.formats.checkpoint_header import CheckpointInfo, kind_of

METRICS = "metrics.jsonl"
PREVIOUS_METRICS = "metrics.previous.jsonl"
"""The log of the last run that left no checkpoint in the folder."""
JOURNAL = ".replacing.json"
LOG_SET_ASIDE = ".metrics.jsonl.replaced"


class Replacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The journal: the run that replaces, and the files that go, each with its run's id, "" for a damaged one.

    The first save of the run is the first one later than `saved_at`, which is 0 for a run that has none in the folder.
    """

    run_id: str
    saved_at: float
    files: dict[str, str]

    def is_published(self, infos: Iterable[CheckpointInfo]) -> bool:
        """Return whether the new run has saved, given the checkpoints in the folder."""
        return any(info.run_id == self.run_id and info.saved_at > self.saved_at for info in infos)

    def replaces(self, name: str, run_id: str) -> bool:
        """Return whether a file that now holds `run_id` is one of those to go."""
        return kind_of(name) != "other" and self.files.get(name) == run_id


_JOURNAL = msgspec.json.Decoder(Replacement)


def read_journal(folder: Path) -> Replacement | None:
    """Return the journal of a folder; None if there is none, or it was damaged, which undoes the replacement."""
    try:
        with files.open_regular(folder / JOURNAL) as file:
            return _JOURNAL.decode(file.read() or b"")
    except (OSError, msgspec.DecodeError):
        return None


def begin(folder: Path, replacement: Replacement, *, log: bool) -> None:
    """Write the journal and, with `log`, set the log aside. Raises OSError."""
    files.replace_file(folder / JOURNAL, [msgspec.json.encode(replacement)])
    if log:
        _rename(folder / METRICS, folder / LOG_SET_ASIDE)


def settle(folder: Path, infos: Iterable[CheckpointInfo]) -> None:
    """Complete the replacement that the journal describes if the new run has saved, else undo it. Raises OSError.

    `infos` are all readable checkpoints in the folder. To be called only by the holder of the folder's lock.
    """
    if not os.path.lexists(folder / JOURNAL):
        return
    infos = list(infos)
    replacement = read_journal(folder)
    if replacement is not None and replacement.is_published(infos):
        held = {info.path.name: info.run_id for info in infos}
        for name in replacement.files:
            if replacement.replaces(name, held.get(name, "")):
                (folder / name).unlink(missing_ok=True)
        (folder / LOG_SET_ASIDE).unlink(missing_ok=True)
    elif os.path.lexists(folder / LOG_SET_ASIDE):
        set_log_aside(folder)
        os.replace(folder / LOG_SET_ASIDE, folder / METRICS)
    files.sync_folder(folder)
    (folder / JOURNAL).unlink(missing_ok=True)


def set_log_aside(folder: Path) -> None:
    """Rename the log, if there is one, because its run has no checkpoint in the folder. Raises OSError."""
    _rename(folder / METRICS, folder / PREVIOUS_METRICS)


def _rename(path: Path, new_name: Path) -> None:
    """Rename a file that may be absent; a folder of that name stays, and opening the log reports it."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        os.replace(path, new_name)
