"""Early stopping: the best evaluation by `best_metric`, and the reasons to end a run that depend on it.

Patience counts scheduled evaluations (every `eval_every_steps` steps, and at the end of each epoch) after the warm-up
that are not a new best one. A run stops early once there are `patience` of them, and `patience_min_steps` steps have
passed since the best evaluation or, if that is later, since the warm-up: an epoch of a tiny text has a few steps, so
that evaluations alone would end its run at once. An evaluation on request may be a new best one, but never counts.
"""

from __future__ import annotations

import math

from gpt_core.config.settings import Settings
from gpt_core.formats.training_state import TrainingState


def record_evaluation(
    state: TrainingState, loss: float, accuracy: float, settings: Settings, *, is_scheduled: bool
) -> bool:
    """Record an evaluation at the present step; call it before `state.last_eval` is replaced.

    Args:
        state: Training state to update.
        loss: Eval loss.
        accuracy: Eval token accuracy.
        settings: Settings of the run.
        is_scheduled: False for an evaluation on request.

    Returns:
        True if it is the best evaluation so far, by at least `improvement_threshold`.
    """
    if is_improvement(state, loss, accuracy, settings):
        state.best_step, state.best_accuracy = state.step, accuracy
        state.best_loss = loss if math.isfinite(loss) else None
        state.restart_patience()
        return True
    if is_scheduled and state.scores is None and state.step > settings.warmup_steps:
        state.evaluations_without_improvement += 1
    return False


def is_improvement(state: TrainingState, loss: float, accuracy: float, settings: Settings) -> bool:
    """Return True if scores are better than the best ones by at least `improvement_threshold`."""
    if settings.best_metric == "accuracy":
        return not state.is_scored or accuracy >= state.best_accuracy + settings.improvement_threshold
    if state.best_loss is None:
        return math.isfinite(loss)
    return loss <= state.best_loss - settings.improvement_threshold


def patience_is_over(state: TrainingState, settings: Settings) -> bool:
    """Return True if a scheduled evaluation at the present step ends the run."""
    steps = state.step - max(state.patience_from, settings.warmup_steps)
    is_reached = 0 < settings.patience <= state.evaluations_without_improvement
    return is_reached and steps >= settings.patience_min_steps and not state.evaluation_due


def end_epoch(state: TrainingState, settings: Settings) -> str:
    """Count the epoch that has just ended, and reset the counters of the epoch.

    Returns:
        The reason to stop the run: epsilon (the mean step loss of the epoch is below it) or max_epochs; "" to continue.
    """
    mean_loss = state.loss_sum / state.loss_count if state.loss_count else math.inf
    state.epoch += 1
    state.window = 0
    state.loss_sum, state.loss_count = 0.0, 0
    if mean_loss < settings.epsilon:
        return "epsilon"
    return "max_epochs" if state.epoch >= settings.max_epochs else ""
