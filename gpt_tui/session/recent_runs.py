"""Recent runs for the start screen: the runs below the folder, and the newest sample of one of them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gpt_core.training.events import SampleWritten, from_json_lines
from gpt_tui.session.log_reader import LogTail
from gpt_tui.session.run_finder import RunFinder, RunInfo

MAX_RECENT = 8
SAMPLE_BYTES = 1 << 20  # of the end of a log, in which the newest sample is searched
SAMPLE_EVENT = b'{"event":"sample"'


class RecentRuns(NamedTuple):
    """Runs, the last updated first, and the newest sample among them with the folder of its run."""

    runs: tuple[RunInfo, ...] = ()
    sample: SampleWritten | None = None
    sample_folder: Path | None = None


def read_recent_runs(models_dir: str, around: Path) -> RecentRuns:
    """Find runs and their newest sample. Reads logs, so call it in a worker thread."""
    runs = tuple(RunFinder((Path(models_dir), around)).find()[:MAX_RECENT])
    for run in runs:
        if sample := newest_sample(run.path):
            return RecentRuns(runs, sample, run.folder)
    return RecentRuns(runs)


def newest_sample(log: Path) -> SampleWritten | None:
    """Return the last sample of a log; None without one near its end, or if it cannot be read."""
    with suppress(OSError):
        lines = LogTail(log).last_lines(SAMPLE_BYTES).splitlines(keepends=True)
        last = next((line for line in reversed(lines) if line.startswith(SAMPLE_EVENT)), b"")
        return next((event for event in from_json_lines(last) if isinstance(event, SampleWritten)), None)
    return None
