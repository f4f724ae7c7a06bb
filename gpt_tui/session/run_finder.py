"""Finding runs by their logs, with a summary of each, and following the logs of selected runs."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from gpt_core.checkpoints.lock import LockHolder, lock_holder
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.errors import GptError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.run_files import METRICS
from gpt_core.training.events import RunStarted
from gpt_tui.session.log_reader import NO_EVALUATION, BestEvaluation, LogFollower, LogSummary, LogTail
from gpt_tui.session.run_state import NO_LIMITS, Limits, RunState

MAX_RUNS = 64
MAX_FOLDERS = 2000  # that are listed
MAX_DEPTH = 3  # of subfolders
FIRST_CHUNKS = 4  # of a long log that `find` scans; `scan_more` scans the rest
GROWING_S = 300.0  # since the last line of a log whose run is taken to be in training where its lock cannot be seen
MAX_FOLLOWERS = 16  # logs whose run state stays in memory


class RunStatus(Enum):
    """Status of a run by its log and its lock; the value is its label."""

    LIVE = "training"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    CRASHED = "crashed"
    UNKNOWN = "unknown"
    WAITING = "waiting"

    @property
    def is_live(self) -> bool:
        """True while a process trains the run, or has paused it."""
        return self in (RunStatus.LIVE, RunStatus.PAUSED)


class CheckpointFacts(NamedTuple):
    """Settings in the newest checkpoint of a run, the SHA-256 of its tokenizer ("" if unknown), and its path."""

    settings: Settings | None = None
    tokenizer_sha256: str = ""
    path: Path | None = None

    @property
    def limits(self) -> Limits:
        """The limits that end the run."""
        settings = self.settings
        return Limits.of(settings) if settings else NO_LIMITS


class RunInfo(NamedTuple):
    """A run as listed.

    Attributes:
        folder: The folder of its log.
        status: In training or paused, or how it ended.
        started: The event that started it.
        step: Number of the last step.
        loss: Loss of the last step in nats, NaN before one.
        best: Scores of the best evaluation.
        elapsed_s: Training time.
        tokens_per_s: Median throughput of the last steps, NaN before one.
        updated_at: Time of the last change of the log, in seconds since 1970.
        pid: Process of this PID namespace that holds the folder's lock.
        place: Where the process is that holds the lock or may hold it, "on HOST"; "" for this PID namespace.
        checkpoint: Facts from its newest checkpoint.
    """

    folder: Path
    status: RunStatus
    started: RunStarted | None = None
    step: int = 0
    loss: float = math.nan
    best: BestEvaluation = NO_EVALUATION
    elapsed_s: float = 0.0
    tokens_per_s: float = math.nan
    updated_at: float = 0.0
    pid: int | None = None
    place: str = ""
    checkpoint: CheckpointFacts = CheckpointFacts()

    @property
    def path(self) -> Path:
        """Path of the log."""
        return self.folder / METRICS


def run_status(summary: LogSummary | None, holder: LockHolder | None) -> RunStatus:
    """Return the status by the end of the log and by the process that holds the lock.

    A lock on another host may not be seen from here: then the run is in training as long as its log grows.
    """
    is_live = is_in_training(holder, summary.tail.updated_at if summary else 0.0)
    if summary is None or not (summary.started or summary.last):
        return RunStatus.LIVE if is_live else RunStatus.WAITING
    if summary.finished is None:
        live = RunStatus.PAUSED if summary.is_paused else RunStatus.LIVE
        return live if is_live else RunStatus.UNKNOWN if holder else RunStatus.CRASHED
    return {"stopped": RunStatus.STOPPED, "diverged": RunStatus.DIVERGED}.get(
        summary.finished.reason, RunStatus.FINISHED
    )


def is_in_training(holder: LockHolder | None, updated_at: float) -> bool:
    """Return True if a folder's lock is held, or if it may be and the log was updated within `GROWING_S`."""
    return holder is not None and (holder.is_certain or time.time() - updated_at < GROWING_S)


@dataclass
class RunFinder:
    """Finds runs repeatedly; a log is read only once, and then its new lines. Not thread-safe.

    Attributes:
        places: Folders that are searched, with those below them. May be replaced by another thread.
        watched: Folder that is listed first.
    """

    places: Sequence[Path]
    watched: Path | None = None
    _summaries: dict[Path, LogSummary] = field(default_factory=dict)
    _facts: dict[Path, tuple[object, CheckpointFacts]] = field(default_factory=dict)

    def find(self) -> list[RunInfo]:
        """Return the runs: the watched folder first, then those in training, then the last updated first."""
        folders = log_folders(self.places)
        if self.watched and not any(is_same_folder(folder, self.watched) for folder in folders):
            folders.insert(0, self.watched)
        runs = [self._run(folder) for folder in folders]
        self._summaries = {run.folder: summary for run in runs if (summary := self._summaries.get(run.folder))}
        return sorted(runs, key=self._order)

    def scan_more(self) -> bool:
        """Scan another chunk of each long log; return False if all are complete."""
        left = [summary for summary in self._summaries.values() if not summary.is_complete]
        for summary in left:
            with suppress(OSError):
                summary.scan()
        return bool(left)

    def _order(self, run: RunInfo) -> tuple[bool, bool, float, str]:
        is_live = run.status.is_live
        is_watched = self.watched is not None and is_same_folder(run.folder, self.watched)
        return (not is_watched, not is_live, 0.0 if is_live else -run.updated_at, str(run.folder))

    def _run(self, folder: Path) -> RunInfo:
        holder = lock_holder(folder)  # before the log: a run that ends in between has then written all of it
        pid, place = (holder.pid if holder.is_here else None, holder.place) if holder else (None, "")
        summary = self._summaries.setdefault(folder, LogSummary(LogTail(folder / METRICS)))
        try:
            summary.scan(FIRST_CHUNKS)
        except OSError:
            del self._summaries[folder]
            return RunInfo(folder, run_status(None, holder), pid=pid, place=place)
        last = summary.last
        return RunInfo(
            folder, run_status(summary, holder), summary.started, last.step if last else 0,
            last.loss if last else math.nan, summary.best, last.elapsed_s if last else 0.0,
            summary.tokens_per_s, summary.tail.updated_at, pid, place,
            self._facts_of(folder),
        )  # fmt: skip

    def _facts_of(self, folder: Path) -> CheckpointFacts:
        """Return the facts of the newest checkpoint, read again only when the folder has changed."""
        with suppress(OSError):
            changed = folder.stat().st_mtime_ns
            known = self._facts.get(folder)
            if known is None or known[0] != changed:
                self._facts[folder] = (changed, read_facts(folder))
            return self._facts[folder][1]
        return CheckpointFacts()


@dataclass
class RunReader:
    """Finds runs and follows the logs of the selected ones. For one thread at a time; its results are immutable."""

    finder: RunFinder
    _followers: dict[tuple[Path, Limits], LogFollower] = field(default_factory=dict)

    def find(self) -> list[RunInfo]:
        """Return the runs that are there now."""
        return self.finder.find()

    def scan_more(self) -> bool:
        """Scan another chunk of each long log; return False if all are complete."""
        return self.finder.scan_more()

    def read(self, selected: Sequence[RunInfo]) -> bool:
        """Read a chunk of each selected run's log; return True at the end of all of them."""
        followers = [self._follower(run) for run in selected]
        for follower in followers:
            follower.read()
        return all(follower.at_end for follower in followers)

    def histories(self, selected: Sequence[RunInfo]) -> dict[Path, RunState]:
        """Return the selected runs as far as they were read, by their folders."""
        return {run.folder: self._follower(run).history for run in selected}

    def _follower(self, run: RunInfo) -> LogFollower:
        """Return the follower of a run's log; the ones unused longest are discarded."""
        limits = run.checkpoint.limits
        key = (run.folder, limits)
        follower = self._followers.pop(key) if key in self._followers else LogFollower(run.path, limits)
        self._followers[key] = follower
        while len(self._followers) > MAX_FOLLOWERS:
            del self._followers[next(iter(self._followers))]
        return follower


def read_facts(folder: Path) -> CheckpointFacts:
    """Read the settings and the tokenizer's hash from the header of a run's newest checkpoint."""
    with suppress(GptError, OSError):
        named = CheckpointStore(folder).list_named()
        if newest := next((found for found in named if isinstance(found, CheckpointInfo)), None):
            return CheckpointFacts(newest.settings, newest.tokenizer_sha256, newest.path)
    return CheckpointFacts()


def folder_of_interest(models_dir: Path, around: Path) -> Path | None:
    """Return the default folder to watch: one that a run trains in, else the one whose log was updated last.

    Candidates are `models_dir`, its subfolders and those of `around`; of several in training, the last updated one.
    None if there is neither a run in training nor a log.
    """
    folders = [models_dir, *(place / name for place in (models_dir, around) for name in _entries(place)[0])]
    found = [(is_trained_in(folder), log_updated_at(folder), folder) for folder in folders[:MAX_FOLDERS]]
    is_live, updated_at, folder = max(found, key=lambda each: each[:2])
    return folder if is_live or updated_at else None


def is_trained_in(folder: Path) -> bool:
    """Return True while a process trains in the folder."""
    return is_in_training(lock_holder(folder), log_updated_at(folder))


def log_updated_at(folder: Path) -> float:
    """Return the time of the last change of a folder's log, in seconds since 1970; 0 without a log."""
    try:
        return (folder / METRICS).stat().st_mtime
    except (OSError, ValueError):
        return 0.0


def log_folders(places: Iterable[Path], limit: int = MAX_RUNS) -> list[Path]:
    """Return the folders with a log, at these places and below them, nearest first.

    Bounded in depth and number: of more than `limit`, those in training and the last updated ones. Hidden folders are
    skipped, links are not followed.
    """
    waiting = deque((place, 0) for place in places)
    found: list[Path] = []
    seen: set[str] = set()
    while waiting and len(seen) < MAX_FOLDERS:
        folder, depth = waiting.popleft()
        try:
            real = os.path.realpath(folder)
        except OSError:  # a relative path, and the working folder was deleted
            continue
        if real in seen:
            continue
        seen.add(real)
        below, has_log = _entries(folder)
        if has_log:
            found.append(folder)
        if depth < MAX_DEPTH:
            waiting.extend((folder / name, depth + 1) for name in below)
    if len(found) > limit:
        ranked = sorted(found, key=lambda place: (is_trained_in(place), log_updated_at(place)), reverse=True)
        kept = set(ranked[:limit])
        found = [place for place in found if place in kept]
    return found


def _entries(folder: Path) -> tuple[list[str], bool]:
    """Return the names of its visible subfolders, sorted, and whether it contains a log."""
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


def is_same_folder(folder: Path, other: Path) -> bool:
    """Return True if two paths lead to one folder."""
    try:
        return os.path.realpath(folder) == os.path.realpath(other)
    except OSError:  # a relative path, and the working folder was deleted
        return folder == other
