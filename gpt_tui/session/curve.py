"""Curve of one metric in bounded memory: the recent steps in full, the complete run thinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics import MAX_LOSS, smooth_all

STEP, TOKENS, ELAPSED, LOW, HIGH, SMOOTHED = range(6)
COLUMNS = 6
RECENT = 2048
THINNED = 2048


def _no_rows() -> NDArray[np.float64]:
    return np.empty((0, COLUMNS))


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Values of a metric, one row per point: step, tokens, seconds, lowest, highest and smoothed value.

    Arrays are not modified once they are part of a curve.

    Attributes:
        thinned: The complete run, at most THINNED rows of `bucket` steps each.
        recent: The last steps, at most RECENT rows of one step each.
        bucket: Steps per row of `thinned`.
        fill: Steps in the last row of `thinned`.
        smoothed: Exponential moving average of the finite values, NaN before the first.
        count: Number of finite values.
    """

    thinned: NDArray[np.float64] = field(default_factory=_no_rows)
    recent: NDArray[np.float64] = field(default_factory=_no_rows)
    bucket: int = 1
    fill: int = 1
    smoothed: float = float("nan")
    count: int = 0

    def with_values(self, at: NDArray[np.float64], values: Sequence[float]) -> Curve:
        """Return the curve with values appended, in order.

        Args:
            at: Step, tokens and seconds of each value. Shape: (n, 3).
            values: The values, n of them.
        """
        if not values:
            return self
        averages = smooth_all(self.smoothed, values, self.count)
        finite = np.isfinite(values)
        rows = np.empty((len(values), COLUMNS))
        rows[:, : ELAPSED + 1] = at
        rows[:, LOW] = rows[:, HIGH] = np.where(finite, np.clip(values, -MAX_LOSS, MAX_LOSS), values)
        rows[:, SMOOTHED] = averages
        recent = np.concatenate((self.recent, rows))[-RECENT:]
        count = self.count + int(finite.sum())
        return replace(self._filled(rows), recent=recent, smoothed=averages[-1], count=count)

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


def places(steps: Sequence[StepCompleted]) -> NDArray[np.float64]:
    """Return step, tokens and seconds of each step. Shape: (n, 3)."""
    return np.array([(step.step, step.tokens, step.elapsed_s) for step in steps], dtype=np.float64)


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
