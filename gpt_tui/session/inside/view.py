"""A view of a model and a text: lines, a text in colors, tables, and the same as data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Cell(NamedTuple):
    """Text with a level from 0 to 1, which is shown as its background; None for no background."""

    text: str
    level: float | None = None


class Column(NamedTuple):
    """Column of a table."""

    name: str
    is_number: bool = False
    """numbers are aligned to the right"""
    is_label: bool = False
    """labels are repeated where a wide table is split"""


@dataclass(frozen=True)
class Table:
    """Rows of cells, one for each column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


class Heatmap(NamedTuple):
    """Picture of a matrix.

    Attributes:
        name: Caption.
        levels: Level of each pixel, from 0 to 1 (rows, columns).
    """

    name: str
    levels: NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """A view.

    Attributes:
        title: Name of the view.
        lines: Summary and explanation.
        passage: Tokens of the text, each with its level; empty if the view colors no text.
        legend: Levels of the passage, each with its value.
        heatmaps: Pictures, for pages.
        tables: Tables of the values.
        data: Values for JSON, with plain numbers.
    """

    title: str
    lines: Sequence[str]
    passage: Sequence[Cell] = ()
    legend: Sequence[Cell] = ()
    heatmaps: Sequence[Heatmap] = ()
    tables: Sequence[Table] = ()
    data: Mapping[str, object] = field(default_factory=dict)
