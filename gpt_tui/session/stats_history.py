"""Statistics of a model over its run: scores of the heads and health of the weights at each evaluation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.training.events import HeadsScored, HealthMeasured, InductionHeadAppeared, Numbers

Values = NDArray[np.float32]

HEAD_SCORES = HeadsScored.__struct_fields__[1:]  # the first field is the step
"""Names of the scores of a head, in the order of `HeadsPoint.scores`."""


class Place(NamedTuple):
    """Place in a run: its values on the x axes."""

    step: int
    tokens: int
    elapsed_s: float


class HeadsPoint(NamedTuple):
    """Scores of all heads at one step.

    Attributes:
        place: Place in the run.
        scores: The scores, (4, L, H) in the order of HEAD_SCORES; NaN for one that is unknown.
    """

    place: Place
    scores: Values


class HealthPoint(NamedTuple):
    """Health of the weights at one step.

    Attributes:
        place: Place in the run.
        tensors: Names of the tensors.
        values: Norm, gradient norm and log10 of the update over the weights, (3, tensors); NaN where unknown.
        dead_units: Fraction of each layer's MLP units that never fire on the probe, (L,).
    """

    place: Place
    tensors: tuple[str, ...]
    values: Values
    dead_units: Values


class InductionMark(NamedTuple):
    """The first induction head of a run, its layer and number from 0, and where it was found."""

    place: Place
    layer: int
    head: int
    score: float


def heads_point(place: Place, event: HeadsScored) -> HeadsPoint:
    """Return the scores of an event as an array."""
    scores: list[tuple[Numbers, ...]] = [getattr(event, name) for name in HEAD_SCORES]
    rows = max(map(len, scores), default=0)
    columns = max((len(row) for score in scores for row in score), default=0)
    array = np.full((len(scores), rows, columns), np.nan, np.float32)
    for number, score in enumerate(scores):
        for layer, row in enumerate(score):
            array[number, layer, : len(row)] = numbers(row)
    return HeadsPoint(place, array)


def health_point(place: Place, event: HealthMeasured) -> HealthPoint:
    """Return the values of an event as arrays."""
    lists = (event.norms, event.grad_norms, event.update_ratios)
    values = np.full((len(lists), len(event.tensors)), np.nan, np.float32)
    for row, given in zip(values, lists, strict=True):
        known = numbers(given)[: len(row)]
        row[: len(known)] = known
    return HealthPoint(place, event.tensors, values, numbers(event.dead_units))


def induction_mark(place: Place, event: InductionHeadAppeared) -> InductionMark:
    """Return the mark of an event."""
    return InductionMark(place, event.layer, event.head, event.score)


def numbers(values: Numbers) -> Values:
    """Return values as an array, NaN for those that are unknown."""
    return np.array([np.nan if value is None else value for value in values], np.float32)
