"""Progress reports of operations that take seconds: the callback that they accept."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Callback that receives what is being done, and the fraction of it that is done, 0 to 1."""

    def __call__(self, activity: str, fraction: float, /) -> None:
        """Report `activity` and `fraction`."""


def ignore_progress(_activity: str, _fraction: float, /) -> None:
    """Report nothing. The default where a function accepts a `Progress`."""
