"""Dropout (Srivastava et al. 2014) at the three places of GPT-2 (Radford et al. 2019).

In training, each element of the embedding's output, of the attention probabilities, and of both branches of a block
before they are added to the residual stream is multiplied by M: 0 with probability `rate`, else 1 / (1 - rate).

M is a function of the seed, the step, the number of the sequence within the step, the place and the element
(`gpt_core/kernels/random_masks.pxd`). It is computed again in the backward pass and never stored, and depends neither
on threads, nor on the division of a step into micro-batches, nor on a stop and a resume in between.
"""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.config.settings import Settings

_BITS = (1 << 64) - 1
EMBEDDING = 0
"""Place of the embedding's output."""


class Dropout(NamedTuple):
    """Dropout of one pass in training."""

    rate: float
    """probability with which an element is dropped, above 0"""
    seed: int
    step: int
    """number of the optimizer step"""
    first_sequence: int
    """number of the first sequence of the pass within its step"""
    time: int
    """tokens per sequence"""

    @property
    def first_row(self) -> int:
        """Number of the first row of an array (N, C) of the pass within its step."""
        return self.first_sequence * self.time

    def key(self, place: int) -> int:
        """Return the key of the mask of a place in the model: 64 bits that depend on seed, step and place."""
        key = 0
        for number in (self.seed, self.step, place):
            key = _mixed(key ^ number)
        return key


def dropout_of(settings: Settings, step: int, first_sequence: int, time: int) -> Dropout | None:
    """Return the dropout of a pass over sequences of `time` tokens, None if there is none.

    A self-test has none: its lines are to be memorized.
    """
    if settings.dropout == 0 or settings.overfit_tiny:
        return None
    return Dropout(settings.dropout, settings.seed, step, first_sequence, time)


def attention_place(layer: int) -> int:
    """Return the place of the attention probabilities of a layer."""
    return 3 * layer + 1


def branch_places(layer: int) -> tuple[int, int]:
    """Return the places of the outputs of attention and MLP of a layer."""
    return 3 * layer + 2, 3 * layer + 3


def _mixed(state: int) -> int:
    """Return the next output of SplitMix64 (Steele, Lea and Flood 2014) for a state of 64 bits."""
    z = (state + 0x9E3779B97F4A7C15) & _BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _BITS
    return z ^ (z >> 31)
