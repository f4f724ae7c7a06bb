"""The learning rate over the steps: linear warm-up, then one cosine (Loshchilov and Hutter 2017)."""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt_core.config.settings import Settings


class Schedule(NamedTuple):
    """The share of each group's rate that a step uses."""

    warmup_steps: int
    decay_steps: int
    min_share: float

    def share(self, step: int) -> float:
        """For the step-th step, from 1: rises to 1 over the warm-up, falls to `min_share` over `decay_steps`, stays."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.decay_steps == 0:
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / self.decay_steps)
        return self.min_share + (1.0 - self.min_share) * 0.5 * (1.0 + math.cos(math.pi * done))


def schedule_of(settings: Settings) -> Schedule:
    """The schedule of a run. Tiny overfit has one of its own: its few steps would end inside a long warm-up."""
    if settings.overfit_tiny:
        warmup = min(settings.warmup_steps, settings.overfit_steps // 25)
        return Schedule(warmup, settings.overfit_steps - warmup, settings.min_lr_share)
    return Schedule(settings.warmup_steps, settings.decay_steps, settings.min_lr_share)
