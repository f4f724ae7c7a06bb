"""Optimizer interface: declaration of the state, update of the parameters, clipping of the gradients.

Another optimizer is a subclass of `Optimizer` in a file of its own, registered in `gpt_core.registry`.
Checkpoints, saving, the estimates of memory and file size, step timing and the benchmark work from what it declares.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, cast

from gpt_core.config.settings import ModelShape, Settings
from gpt_core.kernels import adamw
from gpt_core.model.layers.layer import LrGroup
from gpt_core.model.parameters import Parameters, frozen_names, parameter_table, trained_count
from gpt_core.model.precision import PRECISION
from gpt_core.registry import OPTIMIZERS

OptimizerState = dict[str, Parameters]
"""State tensors by the names in `Optimizer.state_names`; each holds a value of those in `state_parameters`."""


class Optimizer(ABC):
    """Optimizer of one set of parameters.

    The step number is an argument of `update`, so `state` is all that a checkpoint stores for an optimizer. The average
    of the weights is apart from it: checkpoints hold it as the weights (`gpt_core.training.run`).

    Args:
        parameters: Weights that `update` changes in place.
        settings: Hyper-parameters.
        state: State of a checkpoint; zeros if None. Changed in place by `update`.
        average: Average of a checkpoint, if the settings keep one; the weights themselves if None. Changed in place by
            `update_average`.

    Attributes:
        state_names: Names of the state tensors. In a checkpoint, the state tensor `adam_m` of the parameter
            `wte.weight` is called `adam_m.wte.weight`.
        learning_rates: Learning rate per group of parameters, before the schedule.
        average: Exponential moving average of the parameters; None if the setting `ema` is 0.
        frozen: Names of the parameters that keep their values; their gradients are 0.
        segments: Ranges of the parameters to update: all but the frozen ones.
    """

    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        parameters: Parameters,
        settings: Settings,
        state: OptimizerState | None = None,
        average: Parameters | None = None,
    ) -> None:
        if state is not None and tuple(state) != self.state_names:
            raise ValueError(f"optimizer state: got {tuple(state)}, expected {self.state_names}")
        self.parameters = parameters
        self.settings = settings
        if state is None:
            shape = parameters.shape
            state = {
                name: Parameters(shape, PRECISION.compute, self.state_parameters(name, shape))
                for name in self.state_names
            }
        self.state = state
        self.average = (average or parameters.copy()) if settings.ema else None
        self.frozen = frozen_names(parameters.shape, settings.freeze)
        self.segments = parameters.segments_without(self.frozen)
        self.learning_rates: dict[LrGroup, float] = {
            "attn": settings.attn_lr,
            "mlp": settings.mlp_lr,
            "norm": settings.norm_lr,
            "pos": settings.pos_lr,
            "unembed": settings.unembed_lr,
        }

    @classmethod
    def state_parameters(cls, name: str, shape: ModelShape) -> tuple[str, ...]:
        """Return the parameters that a state tensor has values of, in the order of the table; all by default."""
        return tuple(spec.name for spec in parameter_table(shape))

    @classmethod
    def state_bytes(cls, shape: ModelShape) -> int:
        """Return the bytes of the state for a model of this shape."""
        sizes = {spec.name: spec.size for spec in parameter_table(shape)}
        values = sum(sizes[parameter] for name in cls.state_names for parameter in cls.state_parameters(name, shape))
        return PRECISION.compute.bytes * values

    @classmethod
    def scratch_bytes(cls, shape: ModelShape, n_threads: int) -> int:
        """Return the bytes of scratch memory of an update on this many threads, none by default."""
        return 0

    @classmethod
    def update_work(cls, shape: ModelShape, freeze: str = "") -> float:
        """Return the work of an update in any unit, by default the number of parameters that are not frozen."""
        return trained_count(shape, freeze)

    def gradient_norm(self, gradients: Parameters) -> float:
        """Return the L2 norm of all gradients together; inf or nan if a gradient is not finite."""
        return adamw.norm(gradients.flat)

    def clip_scale(self, norm: float) -> float:
        """Return the factor that scales gradients of this norm down to at most `grad_clip` (Pascanu et al. 2013)."""
        bound = self.settings.grad_clip
        return bound / norm if 0 < bound < norm and math.isfinite(norm) else 1.0

    @abstractmethod
    def update(self, gradients: Parameters, step: int, lr_share: float, scale: float) -> None:
        """Update the parameters and the state in place.

        Args:
            gradients: Gradients of the loss, before clipping.
            step: Number of this update, from 1.
            lr_share: Factor of the schedule for the learning rate of every group.
            scale: Factor for the gradients, from `clip_scale`.
        """

    def update_average(self, step: int) -> None:
        """Update the average of the parameters after step number `step`, if there is one.

            average = d average + (1 - d) parameters, with d = min(`ema`, (1 + step) / (10 + step))

        (Polyak and Juditsky 1992). Its memory is short at first, while the weights change fast. Reads 8 and writes 4
        bytes per parameter.
        """
        if self.average is not None:
            decay = min(self.settings.ema, (1 + step) / (10 + step))
            adamw.average(self.average.flat, self.parameters.flat, decay)


def optimizer_type(name: str) -> type[Optimizer]:
    """Return the optimizer registered under `name`, a value of the setting `optimizer`.

    Raises:
        ConfigError: Nothing is registered under this name.
    """
    return cast(type[Optimizer], OPTIMIZERS.get(name))


def create_optimizer(
    parameters: Parameters,
    settings: Settings,
    state: OptimizerState | None = None,
    average: Parameters | None = None,
) -> Optimizer:
    """Return the optimizer that the settings name; see `Optimizer` for the arguments.

    Raises:
        ConfigError: The optimizer is not registered.
    """
    return optimizer_type(settings.optimizer)(parameters, settings, state, average)
