"""A curve that can grow for days in bounded memory: recent points whole, all of it thinned."""

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
    """The training losses of a run, one row a point: step, tokens, seconds, lowest, highest and smoothed loss (nats).

    `thinned` (at most THINNED rows) covers the whole run, `bucket` steps to a row, the last one holding `fill` of them;
    `recent` (at most RECENT rows) has the last steps one by one. `smoothed` is the moving average of the `count` finite
    losses, NaN before the first. Arrays are never changed once they are in a curve.
    """

    thinned: NDArray[np.float64] = field(default_factory=_no_rows)
    recent: NDArray[np.float64] = field(default_factory=_no_rows)
    bucket: int = 1
    fill: int = 1
    smoothed: float = float("nan")
    count: int = 0

    def extended(self, steps: Sequence[StepCompleted]) -> Curve:
        """The curve with more steps at its end, in order."""
        if not steps:
            return self
        rows = np.empty((len(steps), COLUMNS))
        smoothed, count = self.smoothed, self.count
        for row, step in zip(rows, steps, strict=True):
            loss = step.loss
            if isfinite(loss):
                loss = min(max(loss, -MAX_LOSS), MAX_LOSS)
                smoothed = smooth(smoothed, loss, count)
                count += 1
            row[:] = (step.step, step.tokens, step.elapsed_s, loss, loss, smoothed)
        recent = np.concatenate((self.recent, rows))[-RECENT:]
        return replace(self._filled(rows), recent=recent, smoothed=smoothed, count=count)

    def _filled(self, rows: NDArray[np.float64]) -> Curve:
        """The thinned part with more rows, and buckets twice as wide whenever there are too many."""
        if len(self.thinned):
            rows = np.concatenate((self.thinned[-1:], rows))
            # how many buckets on from the last one each row belongs, the last one holding `fill` steps already
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
        """The whole run (n, COLUMNS): thinned up to where the recent points begin, then these."""
        if not len(self.recent):
            return self.thinned
        older = self.thinned[:, STEP] < self.recent[0, STEP]
        return np.concatenate((self.thinned[older], self.recent))


def merged(rows: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows that share a place (ascending) as one: the lowest LOW, the highest HIGH, the rest from the last of them."""
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    lasts = np.append(starts[1:], len(rows)) - 1
    result: NDArray[np.float64] = rows[lasts]
    result[:, LOW] = np.fmin.reduceat(rows[:, LOW], starts)
    result[:, HIGH] = np.fmax.reduceat(rows[:, HIGH], starts)
    return result
