"""Elapsed time and throughput of a run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

RATE_WINDOW_S = 2.0  # the throughput is averaged over about this time


class RunClock:
    """Seconds of training since the start of a run, including earlier sessions and excluding pauses.

    It is stopped at first.
    """

    def __init__(self, elapsed_s: float) -> None:
        self._elapsed_s = elapsed_s
        self._since: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds so far."""
        return self._elapsed_s + (0.0 if self._since is None else time.monotonic() - self._since)

    def start(self) -> None:
        """Start the clock."""
        if self._since is None:
            self._since = time.monotonic()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Exclude the time spent in the `with` block."""
        was_running = self._since is not None
        self._elapsed_s, self._since = self.elapsed_s, None
        try:
            yield
        finally:
            if was_running:
                self.start()


class TokenRate:
    """Tokens per second, averaged over the last steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._seconds = 0.0
        self._tokens = 0

    def after(self, seconds: float, tokens: int) -> float:
        """Add a step, and return the rate."""
        self._steps.append((seconds, tokens))
        self._seconds += seconds
        self._tokens += tokens
        while len(self._steps) > 1 and self._seconds - self._steps[0][0] > RATE_WINDOW_S:
            oldest_seconds, oldest_tokens = self._steps.popleft()
            self._seconds -= oldest_seconds
            self._tokens -= oldest_tokens
        return self._tokens / max(self._seconds, 1e-9)
