"""How long a run has taken, and how fast it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

RATE_WINDOW_S = 2.0  # tokens/s is the mean over about this long


class RunClock:
    """Seconds since the beginning of a run, those of its earlier sessions included and its pauses left out."""

    def __init__(self, elapsed_s: float) -> None:
        self._began = time.monotonic() - elapsed_s

    @property
    def elapsed_s(self) -> float:
        """So far."""
        return time.monotonic() - self._began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The time inside does not count."""
        paused = time.monotonic()
        yield
        self._began += time.monotonic() - paused


class TokenRate:
    """Tokens a second over the last steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._seconds = 0.0
        self._tokens = 0

    def after(self, seconds: float, tokens: int) -> float:
        """The rate after one more step that took so long for so many tokens."""
        self._steps.append((seconds, tokens))
        self._seconds += seconds
        self._tokens += tokens
        while len(self._steps) > 1 and self._seconds - self._steps[0][0] > RATE_WINDOW_S:
            oldest_seconds, oldest_tokens = self._steps.popleft()
            self._seconds -= oldest_seconds
            self._tokens -= oldest_tokens
        return self._tokens / max(self._seconds, 1e-9)
