"""Learning-rate schedule: linear warm-up, then one cosine (Loshchilov and Hutter 2017)."""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt_core.config.settings import Settings


class Schedule(NamedTuple):
    """Factor of the learning rates over the steps of a run.

    Rises linearly to 1 over `warmup_steps`, falls to `min_share` over `decay_steps`, and stays there; with 0
    `decay_steps` it stays at 1.
    """

    warmup_steps: int
    decay_steps: int
    min_share: float

    def share(self, step: int) -> float:
        """Return the factor of a step, counted from 1."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.decay_steps == 0:
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / self.decay_steps)
        return self.min_share + (1.0 - self.min_share) * 0.5 * (1.0 + math.cos(math.pi * done))


def schedule_of(settings: Settings) -> Schedule:
    """Return the schedule of a run.

    Overfitting a few lines has a shorter one: its steps would end within the warm-up of a normal run.
    """
    if settings.overfit_tiny:
        warmup = min(settings.warmup_steps, settings.overfit_steps // 25)
        return Schedule(warmup, settings.overfit_steps - warmup, settings.min_lr_share)
    return Schedule(settings.warmup_steps, settings.decay_steps, settings.min_lr_share)
