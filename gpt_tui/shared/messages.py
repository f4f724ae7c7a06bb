"""Messages of the Runs tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from textual.message import Message

from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.runs.run_finder import RunLog


class RunsFound(Message, bubble=False):
    """These runs have a log. From the thread that looks for them to the runs pane."""

    def __init__(self, runs: Sequence[RunLog]) -> None:
        super().__init__()
        self.runs = runs


class RunsRead(Message, bubble=False):
    """These runs' logs were read that far, by their folders. From the thread that reads them to the runs pane."""

    def __init__(self, histories: Mapping[Path, RunState]) -> None:
        super().__init__()
        self.histories = histories
