"""Early stopping: best score, and reasons to stop at the end of an epoch."""

from __future__ import annotations

import math

from gpt_core.config.settings import Settings
from gpt_core.formats.training_state import TrainingState


def record_accuracy(state: TrainingState, accuracy: float, settings: Settings) -> bool:
    """Record an eval token accuracy; return True if it is a new best, by at least `improvement_threshold`."""
    if state.best_accuracy >= 0 and accuracy < state.best_accuracy + settings.improvement_threshold:
        return False
    state.best_accuracy = accuracy
    state.best_step = state.step
    state.epochs_without_improvement = 0
    return True


def end_epoch(state: TrainingState, settings: Settings) -> str:
    """Count the epoch that has just ended, and reset the counters of the epoch.

    Returns:
        The reason to stop the run: epsilon (the average train loss of the epoch is below it), early_stopping (no
        better accuracy for `patience` epochs) or max_epochs; "" to continue.
    """
    steps_in_epoch = math.ceil(state.window / settings.batch_size)
    if state.best_step <= state.step - steps_in_epoch and state.best_accuracy >= 0:
        state.epochs_without_improvement += 1
    average_loss = state.loss_sum / state.loss_count if state.loss_count else math.inf
    state.epoch += 1
    state.window = 0
    state.loss_sum, state.loss_count = 0.0, 0
    if average_loss < settings.epsilon:
        return "epsilon"
    if 0 < settings.patience <= state.epochs_without_improvement:
        return "early_stopping"
    return "max_epochs" if state.epoch >= settings.max_epochs else ""
