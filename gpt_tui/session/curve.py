"""Loss curve in bounded memory: the recent steps in full, the complete run thinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics import MAX_LOSS, smooth

STEP, TOKENS, ELAPSED, LOW, HIGH, SMOOTHED = range(6)
COLUMNS = 6
RECENT = 2048
THINNED = 2048


def _no_rows() -> NDArray[np.float64]:
    return np.empty((0, COLUMNS))


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Train losses of a run, one row per point: step, tokens, seconds, lowest, highest and smoothed loss (nats).

    Arrays are not modified once they are part of a curve.

    Attributes:
        thinned: The complete run, at most THINNED rows of `bucket` steps each.
        recent: The last steps, at most RECENT rows of one step each.
        bucket: Steps per row of `thinned`.
        fill: Steps in the last row of `thinned`.
        smoothed: Exponential moving average of the finite losses, NaN before the first.
        count: Number of finite losses.
    """

    thinned: NDArray[np.float64] = field(default_factory=_no_rows)
    recent: NDArray[np.float64] = field(default_factory=_no_rows)
    bucket: int = 1
    fill: int = 1
    smoothed: float = float("nan")
    count: int = 0

    def extended(self, steps: Sequence[StepCompleted]) -> Curve:
        """Return the curve with the losses of steps appended, in order."""
        return self.with_points([(step.step, step.tokens, step.elapsed_s, step.loss) for step in steps])

    def with_points(self, points: Sequence[tuple[int, int, float, float]]) -> Curve:
        """Return the curve with points (step, tokens, seconds, value) appended, in order."""
        if not points:
            return self
        rows = np.empty((len(points), COLUMNS))
        smoothed, count = self.smoothed, self.count
        for row, (step, tokens, elapsed_s, loss) in zip(rows, points, strict=True):
            if isfinite(loss):
                loss = min(max(loss, -MAX_LOSS), MAX_LOSS)
                smoothed = smooth(smoothed, loss, count)
                count += 1
            row[:] = (step, tokens, elapsed_s, loss, loss, smoothed)
        recent = np.concatenate((self.recent, rows))[-RECENT:]
        return replace(self._filled(rows), recent=recent, smoothed=smoothed, count=count)

    def _filled(self, rows: NDArray[np.float64]) -> Curve:
        """Return the curve with rows appended to `thinned`; the buckets double while there are too many rows."""
        if len(self.thinned):
            rows = np.concatenate((self.thinned[-1:], rows))
            # index of the bucket of each row, counted from the last one, which holds `fill` steps already
            places = np.concatenate(([0], (self.fill + np.arange(len(rows) - 1)) // self.bucket))
            filled = self.fill + len(rows) - 1
        else:
            places, filled = np.arange(len(rows)) // self.bucket, len(rows)
        thinned = np.concatenate((self.thinned[:-1], merged(rows, places)))
        bucket, fill = self.bucket, (filled - 1) % self.bucket + 1
        while len(thinned) > THINNED:
            fill += 0 if len(thinned) % 2 else bucket
            thinned = merged(thinned, np.arange(len(thinned)) // 2)
            bucket *= 2
        return replace(self, thinned=thinned, bucket=bucket, fill=fill)

    def rows(self) -> NDArray[np.float64]:
        """Return the complete run, the last steps unthinned. Shape: (n, COLUMNS)."""
        if not len(self.recent):
            return self.thinned
        older = self.thinned[:, STEP] < self.recent[0, STEP]
        return np.concatenate((self.thinned[older], self.recent))


def merged(rows: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Merge rows of equal bucket: the minimum of LOW, the maximum of HIGH, the other columns of the last row.

    Args:
        rows: Points. Shape: (n, COLUMNS).
        places: Bucket of each row, ascending. Shape: (n,).
    """
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    lasts = np.append(starts[1:], len(rows)) - 1
    result: NDArray[np.float64] = rows[lasts]
    result[:, LOW] = np.fmin.reduceat(rows[:, LOW], starts)
    result[:, HIGH] = np.fmax.reduceat(rows[:, HIGH], starts)
    return result
