"""The runs of the Runs tab: found again and again, and those that are wanted read along. Pure but for the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpt_tui.session.run_state import Limits, RunState
from gpt_tui.tabs.runs.log_follower import LogFollower
from gpt_tui.tabs.runs.run_finder import RunFinder, RunLog

MOST_FOLLOWED = 16  # histories kept in memory, those wanted last


@dataclass
class RunReader:
    """To be used by one thread at a time; what it hands out is never changed afterwards."""

    finder: RunFinder
    _followers: dict[tuple[Path, Limits], LogFollower] = field(default_factory=dict)

    def look(self) -> list[RunLog]:
        """The runs that are there now."""
        return self.finder.look()

    def look_on(self) -> bool:
        """Looks at a piece more of each long log; False where nothing is left to look at."""
        return self.finder.look_on()

    def read(self, wanted: Sequence[RunLog]) -> bool:
        """Reads a piece of each log; True when nothing is left of any."""
        followers = [self._follower(run) for run in wanted]
        for follower in followers:
            follower.read()
        return all(follower.at_end for follower in followers)

    def histories(self, wanted: Sequence[RunLog]) -> dict[Path, RunState]:
        """These runs as far as they were read, by their folders."""
        return {run.folder: self._follower(run).history for run in wanted}

    def _follower(self, run: RunLog) -> LogFollower:
        """The one of this log; what was wanted last is at the end, and the first ones are forgotten."""
        key = (run.folder, run.kept.limits)
        follower = self._followers.pop(key) if key in self._followers else LogFollower(run.path, run.kept.limits)
        self._followers[key] = follower
        while len(self._followers) > MOST_FOLLOWED:
            del self._followers[next(iter(self._followers))]
        return follower
