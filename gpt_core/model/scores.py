"""Scores of a model on its run's eval text."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gpt_core.config.settings import MAX_COUNT


class EvalScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of one evaluation; all are finite.

    Attributes:
        step: Optimizer steps taken before it.
        loss: Mean loss in nats per token.
        accuracy: Fraction of targets that are the most probable token.
        bits_per_byte: Sum of the losses in bits, divided by the bytes of the text that the targets encode.
    """

    step: Annotated[int, Meta(ge=0, le=MAX_COUNT)]
    loss: float
    accuracy: Annotated[float, Meta(ge=0.0, le=1.0)]
    bits_per_byte: float
