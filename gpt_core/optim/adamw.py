"""AdamW: Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from gpt_core.kernels import adamw, threads
from gpt_core.model.parameters import Parameters, Segment
from gpt_core.optim.optimizer import Optimizer


class AdamW(Optimizer):
    """AdamW. Its state are running means of the gradient (m) and of the squared gradient (v)."""

    state_names: ClassVar[tuple[str, ...]] = ("adam_m", "adam_v")

    def update(self, gradients: Parameters, step: int, lr_share: float, scale: float) -> None:
        """Update the parameters and the state in place; see `Optimizer.update`.

        With g = scale * gradient, b1 = `adam_beta1`, b2 = `adam_beta2`:

            m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g²
            p = p - lr (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + `adam_eps`) + `weight_decay` p)
        """
        m, v = self.state["adam_m"], self.state["adam_v"]
        update_segments(self, self.segments, gradients, m, v, step, lr_share, scale)


def update_segments(
    optimizer: Optimizer,
    segments: Iterable[Segment],
    gradients: Parameters,
    m: Parameters,
    v: Parameters,
    step: int,
    lr_share: float,
    scale: float,
) -> None:
    """Update ranges of an optimizer's parameters and of both moments as `AdamW.update` does.

    Denormal numbers count as 0: the moments of rarely used tokens reach their range.
    """
    settings = optimizer.settings
    with threads.Bound(), threads.DenormalsFlushed():
        for segment in segments:
            adamw.update(
                optimizer.parameters.values_of(segment), gradients.values_of(segment), m.values_of(segment),
                v.values_of(segment), step, optimizer.learning_rates[segment.lr_group] * lr_share,
                settings.adam_beta1, settings.adam_beta2, settings.adam_eps,
                settings.weight_decay if segment.decay else 0.0, scale,
            )  # fmt: skip
