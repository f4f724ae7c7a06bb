"""Early stopping: the best evaluation by `best_metric`, the patience that depends on it, and the loss of an epoch.

Patience counts scheduled evaluations (every `eval_every_steps` steps, and at the end of epochs) after the warm-up
that are not a new best one. A run stops early once there are `patience` of them, and `patience_min_steps` steps have
passed since the best evaluation or, if that is later, since the warm-up: an epoch of a tiny text has a few steps, so
that evaluations alone would end its run at once. Any other evaluation, on request or of the last step, may be the best
one as well, but changes nothing for early stopping, which compares scheduled ones with the best of them: a run that
ends there and is resumed with more steps stops where a longer run does.
"""

from __future__ import annotations

import math

from gpt_core.config.settings import Settings
from gpt_core.formats.training_state import BestScores, TrainingState


def record_evaluation(
    state: TrainingState, loss: float, accuracy: float, settings: Settings, *, is_scheduled: bool
) -> bool:
    """Record an evaluation at the present step; call it before `state.last_eval` is replaced.

    Args:
        state: Training state to update.
        loss: Eval loss.
        accuracy: Eval token accuracy.
        settings: Settings of the run.
        is_scheduled: False for an evaluation that is made at this step for another reason.

    Returns:
        True if it is the best evaluation so far, by at least `improvement_threshold`.
    """
    new = BestScores(accuracy, loss if math.isfinite(loss) else None)
    best_scheduled = state.best_scheduled or state.best
    is_best = is_improvement(new, state.best, settings)
    if is_best:
        state.best_step, state.best_accuracy, state.best_loss = state.step, new.accuracy, new.loss
    if is_scheduled and is_improvement(new, best_scheduled, settings):
        best_scheduled = new
        state.restart_patience()
    elif is_scheduled and state.scores is None and state.step > settings.warmup_steps:
        state.evaluations_without_improvement += 1
    state.best_scheduled = None if best_scheduled == state.best else best_scheduled
    return is_best


def is_improvement(new: BestScores, best: BestScores, settings: Settings) -> bool:
    """Return True if scores are better than the best ones, and by at least `improvement_threshold`."""
    threshold = settings.improvement_threshold
    if settings.best_metric == "accuracy":
        return best.accuracy < 0 or best.accuracy < new.accuracy >= best.accuracy + threshold
    if new.loss is None or best.loss is None:
        return new.loss is not None
    return best.loss > new.loss <= best.loss - threshold


def patience_is_over(state: TrainingState, settings: Settings) -> bool:
    """Return True if a scheduled evaluation at the present step ends the run."""
    steps = state.step - max(state.patience_from, settings.warmup_steps)
    is_reached = 0 < settings.patience <= state.evaluations_without_improvement
    return is_reached and steps >= settings.patience_min_steps and not state.evaluation_due


def end_epoch(state: TrainingState) -> float:
    """Count the epoch that has just ended, reset its counters, and return its mean step loss; infinity without one."""
    mean_loss = state.loss_sum / state.loss_count if state.loss_count else math.inf
    state.epoch += 1
    state.window = 0
    state.loss_sum, state.loss_count = 0.0, 0
    return mean_loss
