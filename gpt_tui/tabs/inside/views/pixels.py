"""Matrices as pictures of half blocks, two pixels per cell."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from gpt_tui.shared.ramp import MIN_LEVEL, STEPS
from gpt_tui.shared.spans import Span

HALF = "▀"


def pooled(matrix: NDArray[np.floating], side: int) -> NDArray[np.float32]:
    """Return a square matrix as at most `side` x `side` pixels, each the largest of its values."""
    count = len(matrix)
    side = min(side, count)
    starts = (np.arange(side) * count) // side
    rows = np.maximum.reduceat(matrix.astype(np.float32), starts, axis=0)
    return np.asarray(np.maximum.reduceat(rows, starts, axis=1), np.float32)


def pixel_rows(levels: NDArray[np.float32], targets: Sequence[Hashable]) -> list[list[Span]]:
    """Return the rows of a picture, two rows of pixels in each; a click on one selects its target."""
    height, width = levels.shape
    steps = np.rint(np.clip(np.nan_to_num(levels), 0, 1) * STEPS).astype(int)
    steps[levels < MIN_LEVEL] = 0
    if height % 2:
        steps = np.vstack([steps, np.zeros((1, width), int)])
    return [_row(steps[row].tolist(), steps[row + 1].tolist(), targets[row // 2]) for row in range(0, len(steps), 2)]


def _row(upper: list[int], lower: list[int], target: Hashable) -> list[Span]:
    """Return a row of cells; equal neighbors are one span."""
    spans = []
    for (top, bottom), cells in groupby(zip(upper, lower, strict=True)):
        count = len(list(cells))
        if top or bottom:
            spans.append(Span(HALF * count, top / STEPS, bottom / STEPS, at=target))
        else:
            spans.append(Span(" " * count, at=target))
    return spans
