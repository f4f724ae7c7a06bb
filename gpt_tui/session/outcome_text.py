"""Text for the outcomes of a run: its end, a divergence, verdicts and scores.

The log, the headless output and the app share it.
"""

from __future__ import annotations

from math import inf
from pathlib import PurePath

from gpt_core.training.events import (
    FullEvalCompleted,
    InductionHeadAppeared,
    LinesReproduced,
    LogFailed,
    LossDiverged,
    RunFinished,
)
from gpt_tui.shared.formatting import counted, fixed, integer, nats, percent, scores_text, short
from gpt_tui.shared.rows import Tone

ENDINGS = {
    "max_steps": "all steps done",
    "deadline": "time budget used",
    "max_epochs": "all epochs done",
    "early_stopping": "stopped early: no improvement",
    "epsilon": "mean step loss of the epoch below epsilon",
    "overfit_done": "self-test finished",
    "stopped": "stopped and saved",
    "diverged": "diverged: loss, gradients or weights are not finite",
}


def why_ended(event: RunFinished) -> str:
    """Return why a run has ended."""
    if event.reason == "diverged" and event.guessing_loss:
        return f"diverged: {above_guessing('median step loss', event.loss, event.guessing_loss)}"
    if event.reason == "stopped" and not event.saved:
        return "stopped without saving"
    return ENDINGS.get(event.reason, event.reason)


def ending(event: RunFinished) -> str:
    """Return why a run has ended and, if it diverged, the checkpoint to resume."""
    return why_ended(event) + (after_divergence(event) if event.reason == "diverged" else "")


def divergence(event: LossDiverged) -> str:
    """Return the warning of a run that diverges, and what to do."""
    above = above_guessing("median step loss", event.loss, event.guessing_loss)
    return f"diverging: {above}{after_divergence(event, 'stop, then ')}"


def log_failure(event: LogFailed) -> str:
    """Return the warning of a log that misses lines, and the reason."""
    return f"the log of the run is incomplete from step {integer(event.step)} on; training continues: {event.error}"


def induction_text(event: InductionHeadAppeared) -> str:
    """Return which head is the first induction head of a run."""
    score = percent(event.score)
    return f"first induction head: layer {event.layer}, head {event.head} (induction score {score})"


def above_guessing(name: str, loss: float, guessing_loss: float) -> str:
    """Return how a loss compares with that of a uniform distribution over the vocabulary."""
    return f"{name} {nats(loss)} is {times_guessing(loss, guessing_loss)} ({nats(guessing_loss)})"


def times_guessing(loss: float, guessing_loss: float) -> str:
    """Return the ratio of a loss to that of uniform guessing, in words."""
    return f"{fixed(loss / guessing_loss if guessing_loss > 0 else inf, 1)} times the loss of uniform guessing"


def after_divergence(event: LossDiverged | RunFinished, first: str = "") -> str:
    """Return what to do after a divergence.

    Args:
        event: The divergence; it names the last good checkpoint, if there is one.
        first: What to do before that, such as "stop, then ".
    """
    if not event.good_checkpoint:
        good = "good " if event.guessing_loss else ""  # else any checkpoint counts as good
        return f"; no {good}checkpoint was saved before: {first}start again with lower learning rates"
    good = f"{PurePath(event.good_checkpoint).name} (step {integer(event.good_step)})"
    return f"; last good checkpoint: {good}; {first}resume it with lower learning rates"


def verdict(event: LinesReproduced) -> str:
    """Return the verdict of a self-test: `works: 98 of 100 lines reproduced`."""
    count = f"{integer(event.reproduced)} of {counted(event.lines, 'line')} reproduced"
    if event.works:
        return f"works: {count}"
    return f"does not work: {count}" if event.at_end else f"{count} so far"


def verdict_tone(event: LinesReproduced) -> Tone:
    """Return the tone of a verdict: missing lines are a failure only at the end of a self-test."""
    return "good" if event.works else "bad" if event.at_end else "plain"


def full_scores(event: FullEvalCompleted) -> str:
    """Return the scores of the complete eval text in words."""
    return f"full {scores_text(event)} (all {short(event.tokens)} tokens)"
