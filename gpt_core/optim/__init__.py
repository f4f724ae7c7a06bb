"""Optimizers and learning-rate schedules."""

from gpt_core.optim.optimizer import Optimizer, OptimizerState, create_optimizer, optimizer_type
from gpt_core.optim.outer import OUTER_MOMENTUM, OuterOptimizer, create_outer_optimizer, outer_bytes
from gpt_core.optim.schedule import Schedule, schedule_of

__all__ = [
    "OUTER_MOMENTUM",
    "Optimizer",
    "OptimizerState",
    "OuterOptimizer",
    "Schedule",
    "create_optimizer",
    "create_outer_optimizer",
    "optimizer_type",
    "outer_bytes",
    "schedule_of",
]
