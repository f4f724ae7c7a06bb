"""Baselines of a run as text and in the units of its charts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from gpt_core.training.events import BaselinesMeasured
from gpt_tui.shared.formatting import fixed, nats, size

COMPRESSORS = {"xz": "xz", "ppmd": "PPMd"}


class Baseline(NamedTuple):
    """A score without a model: its name, and the losses that it equals in both units."""

    name: str
    nats_per_token: float
    bits_per_byte: float


def baselines_of(event: BaselinesMeasured) -> Iterator[Baseline]:
    """Yield the baselines, from guessing to the compressors."""
    bits_per_nat = 1 / (math.log(2) * event.bytes_per_token) if event.bytes_per_token > 0 else math.nan
    for name, loss in (("guessing", event.uniform), ("token frequencies", event.unigram)):
        yield Baseline(name, loss, loss * bits_per_nat)
    for name, bits in event.compressed.items():
        yield Baseline(COMPRESSORS.get(name, name), bits / bits_per_nat, bits)


def baselines_text(event: BaselinesMeasured) -> str:
    """Return the baselines in one line: `loss without a model: guessing: 8.030; token frequencies: 6.289; xz: …`."""
    parts = [
        f"{baseline.name}: {nats(baseline.nats_per_token)}"
        + (f" ({fixed(baseline.bits_per_byte)} bits per byte)" if baseline.name in COMPRESSORS.values() else "")
        for baseline in baselines_of(event)
    ]
    part = f", of the first {size(event.compressed_bytes)} of the eval text" if event.compressed_bytes else ""
    return f"loss without a model: {'; '.join(parts)}{part}"
