"""That a training text is used up, in words: what it means, and what would help. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.training.events import RunStarted
from gpt_tui.session.learning_text import SMALL_GAP, gap_text
from gpt_tui.shared.formatting import integer, short

MIN_PASSES = 2  # over the training text, after which it counts as used up
MIN_TEXT_TOKENS = 1000  # of a training text, below which there is nothing to learn but the text itself
TOKENS_PER_PARAMETER = 10  # below, a smaller model would learn as much from this text


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


def used_up_text(found: UsedUp, train_tokens: int, parameters: int, *, is_judged: bool = True) -> str:
    """Return that a training text is used up, what the gap means, and what would help.

    Args:
        found: The evaluation after the second pass.
        train_tokens: Tokens of the training text, 0 if unknown.
        parameters: Parameters of the model, 0 if unknown.
        is_judged: The eval text has enough tokens to say what the gap means.
    """
    tokens = f" of {short(train_tokens)} tokens" if train_tokens else ""
    smaller = ", or a smaller model" if parameters * TOKENS_PER_PARAMETER > train_tokens else ""
    gap = f"; {gap_text(found.train_loss, found.eval_loss, found.passes)}" if is_judged else ""
    memorizes = not is_judged or found.eval_loss - found.train_loss > SMALL_GAP
    when = "What would help" if memorizes else "What helps once the eval loss stops falling"
    return (
        f"the training text{tokens} is used up: it was read {integer(found.passes)} times{gap}. "
        f"{when}: more text, a larger dropout (0.1 to 0.3){smaller}"
    )


def too_small_text(event: RunStarted) -> str:
    """Return that the training text of a new run is too small to learn from, "" if it is not."""
    if event.kind != "train" or event.resumed_from or event.train_tokens >= MIN_TEXT_TOKENS:
        return ""
    return (
        f"the training text has only {integer(event.train_tokens)} tokens: the model can memorize them, but not learn "
        "from them what holds for new text; use a longer text"
    )
