"""AdamW over all parameters, with a learning rate for each group, after clipping by the global norm."""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt_core.config.settings import Settings
from gpt_core.kernels import adamw
from gpt_core.model.layers.layer import LrGroup
from gpt_core.model.parameters import Parameters


class Moments(NamedTuple):
    """Adam's running means of each gradient and of its square."""

    first: Parameters
    second: Parameters


class AdamW:
    """The optimizer of one set of weights. Its whole state is `moments`; the step number comes from the caller."""

    def __init__(self, parameters: Parameters, settings: Settings, moments: Moments | None = None) -> None:
        self.parameters = parameters
        self.moments = moments or Moments(Parameters(parameters.shape), Parameters(parameters.shape))
        self.rates: dict[LrGroup, float] = {
            "attn": settings.attn_lr,
            "mlp": settings.mlp_lr,
            "norm": settings.norm_lr,
            "pos": settings.pos_lr,
            "unembed": settings.unembed_lr,
        }
        self._settings = settings

    def clip_scale(self, norm: float) -> float:
        """What brings gradients of this global norm down to at most `grad_clip` (Pascanu et al. 2013)."""
        bound = self._settings.grad_clip
        return bound / norm if 0 < bound < norm and math.isfinite(norm) else 1.0

    def update(self, gradients: Parameters, step: int, lr_share: float, scale: float) -> None:
        """The step-th update (from 1) of the weights, from scale * gradients, at lr_share of each group's rate."""
        settings = self._settings
        for start, stop, group, decay in self.parameters.segments:
            stretch = slice(start, stop)
            adamw.update(
                self.parameters.flat[stretch], gradients.flat[stretch],
                self.moments.first.flat[stretch], self.moments.second.flat[stretch],
                step, self.rates[group] * lr_share, settings.adam_beta1, settings.adam_beta2, settings.adam_eps,
                settings.weight_decay if decay else 0.0, scale,
            )  # fmt: skip
