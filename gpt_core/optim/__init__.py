"""Optimizers and learning-rate schedules."""

from gpt_core.optim.optimizer import Optimizer, OptimizerState, create_optimizer, optimizer_type
from gpt_core.optim.schedule import Schedule, schedule_of

__all__ = ["Optimizer", "OptimizerState", "Schedule", "create_optimizer", "optimizer_type", "schedule_of"]
