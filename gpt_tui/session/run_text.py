"""Text about a run as a whole, from its state: best score, divergence, fine-tuning gain, advice."""

from __future__ import annotations

from gpt_tui.session.outcome_text import above_guessing, ending
from gpt_tui.session.overfitting_text import used_up_text
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.formatting import integer, nats, percent, short

MORE = {
    "max_steps": "a larger max_steps (0: no limit)",
    "deadline": "more minutes",
    "max_epochs": "a larger max_epochs",
    "overfit_done": "a larger overfit_steps",
}
"""Setting that gives a run more steps, by the reason for its end."""


def divergence_so_far(run: RunState) -> str:
    """Return that a run diverges or has diverged, else ""."""
    if run.finished is not None and run.finished.reason == "diverged":
        return ending(run.finished)
    found = run.diverging
    return above_guessing("train loss", run.curve.smoothed, found.guessing_loss) if found else ""


def best_score(run: RunState) -> str:
    """Return the score of the best evaluation by the run's metric: an eval loss or an accuracy; "" for none."""
    if run.best.accuracy < 0:
        return ""
    if run.best_metric == "accuracy":
        return percent(run.best.accuracy)
    return nats(run.best.loss) if run.best.loss is not None else ""


def no_step_left(run: RunState) -> str:
    """Return why a resumed run has ended without a step, and how to train longer; "" if it has taken one."""
    finished, started = run.finished, run.started
    if finished is None or started is None or finished.step != started.step or finished.reason not in MORE:
        return ""
    limit = f" (max_steps is {integer(started.max_steps)})" if finished.reason == "max_steps" else ""
    return f"no step left to train{limit}; to train longer, resume with {MORE[finished.reason]}"


def gain_text(run: RunState) -> str:
    """Return how the best evaluation compares with that before fine-tuning; "" where there is nothing to compare."""
    before, best, full, started = run.start_scores, run.best, run.full_evaluation, run.started
    if before is None or started is None or not (run.is_evaluated or full is not None):
        return ""
    later = [(best.loss, best.step)] if best.step and best.loss is not None else []
    if full is not None and not started.eval_part_tokens:  # else it is of more text
        later.append((full.loss, full.step))
    if not later and not run.is_evaluated:
        return f"eval loss {nats(before.loss)} before fine-tuning (of {short(started.eval_part_tokens)} tokens)"
    loss, step = min(later, default=(before.loss, 0))
    now = f"{nats(loss)} at step {integer(step)}" if loss < before.loss else "which no evaluation improved"
    return f"eval loss {nats(before.loss)} before fine-tuning, {now}"


def advice(run: RunState) -> str:
    """Return that the training text of a run is used up, what it means and what would help; "" before."""
    tokens, parameters = (run.started.train_tokens, run.started.parameters) if run.started else (0, 0)
    return used_up_text(run.used_up, tokens, parameters) if run.used_up is not None else ""
