"""Learning-rate schedules: a linear warm-up, then one cosine, or a constant rate with a linear cooldown at the end.

The cosine is that of Loshchilov and Hutter 2017. Warm-up, constant rate and cooldown are those of Hägele et al. 2024,
"Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations": the constant part does not depend on the
length of the run, so that one run can be continued, and cooled down, at any length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt_core.config.settings import Settings


class Schedule(NamedTuple):
    """Factor of the learning rates over the steps of a run.

    Rises linearly to 1 over `warmup_steps`, falls to `min_share` over `decay_steps`, and stays there; with 0
    `decay_steps` it stays at 1. With a `cooldown` it stays at 1 after the warm-up instead, and falls linearly to
    `min_share` over that fraction of the run, at its end.
    """

    warmup_steps: int
    decay_steps: int
    min_share: float
    cooldown: float = 0.0

    def share(self, step: int, progress: float = 0.0) -> float:
        """Return the factor of a step.

        Args:
            step: Number of the step, from 1.
            progress: Fraction of the run that is over before the step; only the cooldown depends on it.
        """
        warmup = step / self.warmup_steps if step <= self.warmup_steps else 1.0
        if self.cooldown > 0:
            left = min(1.0, max(0.0, 1.0 - progress) / self.cooldown)
            return min(warmup, self.min_share + (1.0 - self.min_share) * left)
        if step <= self.warmup_steps or self.decay_steps == 0:
            return warmup
        done = min(1.0, (step - self.warmup_steps) / self.decay_steps)
        return self.min_share + (1.0 - self.min_share) * 0.5 * (1.0 + math.cos(math.pi * done))


def schedule_of(settings: Settings) -> Schedule:
    """Return the schedule of a run.

    Overfitting a few lines has a shorter one: its steps would end within the warm-up of a normal run.
    """
    if settings.overfit_tiny:
        warmup = min(settings.warmup_steps, settings.overfit_steps // 25)
        return Schedule(warmup, settings.overfit_steps - warmup, settings.min_lr_share, settings.cooldown)
    return Schedule(settings.warmup_steps, settings.decay_steps, settings.min_lr_share, settings.cooldown)


def ends_within_warmup(settings: Settings, steps: int) -> bool:
    """Return True if a run of `steps` steps ends before its learning rate has its full value.

    False for a self-test, whose warm-up follows from its length.
    """
    return not settings.overfit_tiny and steps < settings.warmup_steps
