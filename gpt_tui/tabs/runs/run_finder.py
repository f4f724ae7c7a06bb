"""The runs that have left a log: where they lie, and each in a few words without reading all of its log."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from gpt_core.checkpoints.lock import lock_holder
from gpt_core.checkpoints.replacement import METRICS
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.errors import GptError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.training.events import RunStarted
from gpt_tui.session.run_state import NO_LIMITS, Limits
from gpt_tui.tabs.runs.log_summary import LogSummary
from gpt_tui.tabs.runs.log_tail import LogTail

MOST_RUNS = 64
MOST_FOLDERS = 2000  # that are looked into
FIRST_PIECES = 4  # of a long log that are looked at in a look; `look_on` does the rest
DEPTH = 3  # of folders below the one that is looked in


class RunStatus(Enum):
    """What is known of a run from outside; the value is its name on the screen."""

    LIVE = "training"
    FINISHED = "finished"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    ENDED = "died"
    WAITING = "waiting"


class Kept(NamedTuple):
    """What a checkpoint of the run adds to its log."""

    settings: Settings | None = None
    vocabulary: str = ""  # the tokenizer's SHA-256

    @property
    def limits(self) -> Limits:
        """What bounds the run."""
        settings = self.settings
        return Limits(settings.max_epochs, settings.patience, settings.improvement_threshold) if settings else NO_LIMITS


class RunLog(NamedTuple):
    """A run as the list shows it. `loss` is that of the last step (nats), NaN before one; `best_bits` is infinite
    before an evaluation; `written_at` is in seconds since 1970; `holder` is the process that trains there now.
    """

    folder: Path
    state: RunStatus
    started: RunStarted | None = None
    step: int = 0
    loss: float = math.nan
    best_bits: float = math.inf
    written_at: float = 0.0
    holder: int | None = None
    kept: Kept = Kept()

    @property
    def path(self) -> Path:
        """Its log."""
        return self.folder / METRICS


def run_state(summary: LogSummary | None, holder: int | None) -> RunStatus:
    """From the log's last word and from whether somebody trains there."""
    if summary is None or not (summary.started or summary.last):
        return RunStatus.LIVE if holder else RunStatus.WAITING
    if summary.finished is None:
        return RunStatus.LIVE if holder else RunStatus.ENDED
    return {"stopped": RunStatus.STOPPED, "diverged": RunStatus.DIVERGED}.get(
        summary.finished.reason, RunStatus.FINISHED
    )


@dataclass
class RunFinder:
    """Looks for runs again and again; what it knows of a log it does not read twice. To be used by one thread."""

    models_dir: Path
    around: Path
    watched: Path | None = None
    _summaries: dict[Path, LogSummary] = field(default_factory=dict)
    _kept: dict[Path, tuple[object, Kept]] = field(default_factory=dict)

    def look(self) -> list[RunLog]:
        """The runs: the watched folder first, then those in training, then by when their log was last written."""
        folders = log_folders([self.models_dir, self.around])
        if self.watched and not any(_same(folder, self.watched) for folder in folders):
            folders.insert(0, self.watched)
        runs = [self._run(folder) for folder in folders]
        self._summaries = {run.folder: summary for run in runs if (summary := self._summaries.get(run.folder))}
        return sorted(runs, key=self._order)

    def look_on(self) -> bool:
        """Looks at a piece more of each long log; False where nothing is left to look at."""
        left = [summary for summary in self._summaries.values() if not summary.is_whole]
        for summary in left:
            with suppress(OSError):
                summary.read_on()
        return bool(left)

    def _order(self, run: RunLog) -> tuple[bool, bool, float, str]:
        is_live = run.state is RunStatus.LIVE
        is_watched = self.watched is not None and _same(run.folder, self.watched)
        return (not is_watched, not is_live, 0.0 if is_live else -run.written_at, str(run.folder))

    def _run(self, folder: Path) -> RunLog:
        holder = lock_holder(folder)  # before the log: who ends in between has written all there will be
        summary = self._summaries.setdefault(folder, LogSummary(LogTail(folder / METRICS)))
        try:
            summary.read_on(FIRST_PIECES)
        except OSError:
            del self._summaries[folder]
            return RunLog(folder, run_state(None, holder), holder=holder)
        last = summary.last
        return RunLog(
            folder, run_state(summary, holder), summary.started, last.step if last else 0,
            last.loss if last else math.nan, summary.best_bits, summary.tail.written_at, holder, self._kept_of(folder),
        )  # fmt: skip

    def _kept_of(self, folder: Path) -> Kept:
        """What the newest checkpoint says; read again only when the folder has changed."""
        with suppress(OSError):
            changed = folder.stat().st_mtime_ns
            known = self._kept.get(folder)
            if known is None or known[0] != changed:
                self._kept[folder] = (changed, read_kept(folder))
            return self._kept[folder][1]
        return Kept()


def read_kept(folder: Path) -> Kept:
    """The settings and the tokenizer's hash of a run, from the header of its newest checkpoint."""
    with suppress(GptError, OSError):
        found = [info for info in CheckpointStore(folder).list() if isinstance(info, CheckpointInfo)]
        own = [info for info in found if info.kind != "other"]
        if own:
            return Kept(own[0].settings, own[0].tokenizer_sha256)
    return Kept()


def folder_of_interest(models_dir: Path, around: Path) -> Path | None:
    """The folder to watch where none is named: one that is being trained in, else the one whose log changed last.

    Of `models_dir`, the folders in it and those in `around`; of several in training it is again the last one that was
    written to. None where nobody trains and nothing was logged.
    """
    folders = [models_dir, *(place / name for place in (models_dir, around) for name in _entries(place)[0])]
    found = [(lock_holder(folder) is not None, _written_at(folder), folder) for folder in folders[:MOST_FOLDERS]]
    is_live, written_at, folder = max(found, key=lambda each: each[:2])
    return folder if is_live or written_at else None


def _written_at(folder: Path) -> float:
    """When its log was last written, in seconds since 1970; 0 where there is none."""
    try:
        return (folder / METRICS).stat().st_mtime
    except (OSError, ValueError):
        return 0.0


def log_folders(places: Iterable[Path], most: int = MOST_RUNS) -> list[Path]:
    """Folders that hold a log: these places, and what is below them, nearest first.

    Bounded in depth and number. Hidden folders are left out, links are not followed.
    """
    waiting = deque((place, 0) for place in places)
    found: list[Path] = []
    seen: set[str] = set()
    while waiting and len(found) < most and len(seen) < MOST_FOLDERS:
        folder, depth = waiting.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        below, has_log = _entries(folder)
        if has_log:
            found.append(folder)
        if depth < DEPTH:
            waiting.extend((folder / name, depth + 1) for name in below)
    return found


def _entries(folder: Path) -> tuple[list[str], bool]:
    """The names of the folders in it that may be looked into, sorted; and whether a log lies in it."""
    below, has_log = [], False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == METRICS and entry.is_file(follow_symlinks=False):
                    has_log = True
                elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
    except (OSError, ValueError):
        pass
    return sorted(below), has_log


def _same(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)
