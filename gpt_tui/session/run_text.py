"""Text about a run as a whole, from its state: best score, divergence, fine-tuning gain, advice."""

from __future__ import annotations

from math import ceil, log

from gpt_core.training.events import RunFinished
from gpt_tui.session.learning_text import Gap, gap_of
from gpt_tui.session.outcome_text import above_guessing, ending
from gpt_tui.session.overfitting_text import used_up_text
from gpt_tui.session.run_state import Evaluation, RunState
from gpt_tui.shared.formatting import fixed, integer, nats, percent, short

NEAR_GUESSING = 0.5
"""Nats below ln V, the loss of a uniform distribution over the vocabulary, up to which an eval loss is near it."""
MIN_EVAL_TOKENS = 1000
"""Tokens of an eval text that is judged. The loss of a token varies by about 3 nats, so the standard error of their
mean is 0.1 nats: half of the gap that counts as equal, `SMALL_GAP`."""

MORE = {
    "max_steps": "a larger max_steps (0: no limit)",
    "deadline": "more minutes",
    "max_epochs": "a larger max_epochs",
    "overfit_done": "a larger overfit_steps",
}
"""Setting that gives a run more steps, by the reason for its end."""


def divergence_so_far(run: RunState) -> str:
    """Return the divergence of a run as text, "" for none."""
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


def is_judged(run: RunState) -> bool:
    """Return True if evaluations score enough tokens to compare their loss with the train loss."""
    started = run.started
    return started is None or (started.eval_part_tokens or started.eval_tokens) >= MIN_EVAL_TOKENS


def has_learned(run: RunState, point: Evaluation) -> bool:
    """Return False while train and eval loss are about those of guessing, whose gap means nothing.

    That is the case above the entropy of token frequencies and, until it is measured, near ln V.
    """
    if run.baselines is not None:
        return min(point.train_loss, point.loss) < run.baselines.unigram
    return not run.limits.vocab_size or point.loss <= log(run.limits.vocab_size) - NEAR_GUESSING


def gap_at(run: RunState, point: Evaluation | None) -> Gap | None:
    """Return what the gap between train and eval loss means at an evaluation; None where it cannot be said."""
    if point is None or not is_judged(run) or not has_learned(run, point):
        return None
    return gap_of(point.train_loss, point.loss, point.passes)


def end_text(event: RunFinished, run: RunState) -> str:
    """Return when and why a run has ended and, if a resume has taken no step, how to train longer."""
    more = no_step_left(run)
    return f"step {integer(event.step)}: {ending(event)}{f'; {more}' if more else ''}"


def no_step_left(run: RunState) -> str:
    """Return why a resumed run has ended without a step, and how to train longer; "" if it has taken one."""
    finished, started = run.finished, run.started
    if finished is None or started is None or finished.step != started.step or finished.reason not in MORE:
        return ""
    limit = f" (max_steps is {integer(run.last_step)})" if finished.reason == "max_steps" else ""
    more = MORE[finished.reason]
    if finished.reason == "deadline":
        more = f"more than {fixed(ceil(run.elapsed_s / 6) / 10, 1)} minutes"
    return f"no step left to train{limit}; to train longer, resume with {more}"


def gain_text(run: RunState, named_loss: float | None = None) -> str:
    """Return how the best evaluation compares with that before fine-tuning; "" where there is nothing to compare.

    Args:
        run: The state of the run.
        named_loss: Eval loss of the last step, if it is named beside this text, which does not repeat it.
    """
    before, best, full, started = run.start_scores, run.best, run.full_evaluation, run.started
    if before is None or started is None or not (run.is_evaluated or full is not None):
        return ""
    later = [(best.loss, best.step)] if best.step and best.loss is not None else []
    if full is not None and not started.eval_part_tokens:  # else it is of more text
        later.append((full.loss, full.step))
    if not later and not run.is_evaluated:
        return f"eval loss {nats(before.loss)} before fine-tuning (of {short(started.eval_part_tokens)} tokens)"
    loss, step = min(later, default=(before.loss, 0))
    now = f", {nats(loss)} at step {integer(step)}" if loss < before.loss else ", which no evaluation improved"
    if loss < before.loss and (loss, step) == (named_loss, run.step):
        now = ""
    return f"eval loss {nats(before.loss)} before fine-tuning{now}"


def advice(run: RunState) -> str:
    """Return the advice for a run whose training text is used up, "" before."""
    if run.used_up is None:
        return ""
    event = run.started
    tokens, parameters, dropout = (event.train_tokens, event.parameters, event.dropout) if event else (0, 0, 0.0)
    return used_up_text(run.used_up, tokens, parameters, dropout, is_judged=is_judged(run))
