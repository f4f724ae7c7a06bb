"""Advice for a training text that is used up, or too small: what this means, and what would help. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.training.events import RunStarted
from gpt_core.training.run import MIN_TEXT_TOKENS
from gpt_tui.session.learning_text import SMALL_GAP, gap_text
from gpt_tui.shared.formatting import integer, short

MIN_PASSES = 2  # over the training text, after which it counts as used up
TOKENS_PER_PARAMETER = 10  # below, a smaller model would learn as much from this text
MIN_PARAMETERS = 300_000  # a smaller model learns little from any text
MIN_DROPOUT, MAX_DROPOUT = 0.1, 0.3


class UsedUp(NamedTuple):
    """The first evaluation after the second pass over the training text.

    Attributes:
        step: Step of the evaluation.
        passes: Complete passes over the text.
        train_loss: Train loss (smoothed).
        eval_loss: Eval loss.
    """

    step: int
    passes: int
    train_loss: float
    eval_loss: float


def used_up_text(
    found: UsedUp, train_tokens: int, parameters: int, dropout: float = 0.0, *, is_judged: bool = True
) -> str:
    """Return the advice for a training text that is used up: what the gap means, and what would help.

    Args:
        found: The evaluation after the second pass.
        train_tokens: Tokens of the training text, 0 if unknown.
        parameters: Parameters of the model, 0 if unknown.
        dropout: Dropout of the run.
        is_judged: The eval text has enough tokens to say what the gap means.
    """
    tokens = f" of {short(train_tokens)} tokens" if train_tokens else ""
    helps = ["more text"]
    if dropout < MAX_DROPOUT:
        with_dropout = f"dropout ({MIN_DROPOUT:g} to {MAX_DROPOUT:g}) with more weight decay"
        helps.append("more weight decay" if dropout else with_dropout)
    if parameters > max(MIN_PARAMETERS, train_tokens / TOKENS_PER_PARAMETER):
        helps.append("a smaller model")
    *others, last = helps
    listed = f"{', '.join(others)}, or {last}" if others else last
    gap = f"; {gap_text(found.train_loss, found.eval_loss, found.passes)}" if is_judged else ""
    memorizes = not is_judged or found.eval_loss - found.train_loss > SMALL_GAP
    when = "What would help" if memorizes else "What helps once the eval loss stops falling"
    return f"the training text{tokens} is used up: it was read {integer(found.passes)} times{gap}. {when}: {listed}"


def too_small_text(event: RunStarted) -> str:
    """Return a note if the training text of a new run is too small to learn from, else ""."""
    if event.kind != "train" or event.resumed_from or event.train_tokens >= MIN_TEXT_TOKENS:
        return ""
    kept = "; no best model is kept, only the last weights" if event.eval_file == event.train_file else ""
    return (
        f"the training text has only {integer(event.train_tokens)} tokens: the model can memorize them, but not "
        f"generalize from them{kept}; use a longer text"
    )
