"""What an evaluation and the end of an epoch change in the training state: the best score, and patience running out."""

from __future__ import annotations

import math

from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint_header import TrainingState


def record_accuracy(state: TrainingState, accuracy: float, settings: Settings) -> bool:
    """Takes an eval token accuracy into account; whether it is a new best, by at least `improvement_threshold`."""
    if state.best_accuracy >= 0 and accuracy < state.best_accuracy + settings.improvement_threshold:
        return False
    state.best_accuracy = accuracy
    state.best_step = state.step
    state.epochs_without_improvement = 0
    return True


def end_epoch(state: TrainingState, settings: Settings) -> str:
    """Counts the epoch that `state.window` has reached the end of; gives the reason to stop that this brings, or "".

    The reasons: epsilon (the epoch's average training loss fell below it), early_stopping (no better accuracy for
    `patience` epochs), max_epochs.
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
