"""What the gap between train and eval loss means, and that a training text is used up, in words. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt_tui.shared.formatting import fixed, nats, short

SMALL_GAP, LARGE_GAP, MEMORIZING_GAP = 0.05, 0.3, 1.0  # in nats per token
MIN_PASSES = 2  # over the training text, after which it counts as used up
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


def gap_text(train_loss: float, eval_loss: float) -> str:
    """Return what the gap between train and eval loss means, as a sentence without a full stop.

    The gap is in nats per token, so that exp(gap) is the ratio of the probabilities of the right tokens.
    """
    gap = eval_loss - train_loss
    if not math.isfinite(gap):
        return "train and eval loss cannot be compared"
    if gap < SMALL_GAP:
        return "eval loss is not above train loss: what the model learns holds for new text, too"
    ratio = f"{fixed(math.exp(min(gap, 700)), 1)} times"
    start = f"eval loss is {nats(gap)} above train loss: the right token is {ratio} as likely in the training text"
    if gap < LARGE_GAP:
        return f"{start} as in new text, which is a small gap"
    if gap < MEMORIZING_GAP:
        return f"{start} as in new text, so the model begins to memorize"
    return f"{start} as in new text, so the model memorizes more than it learns"


def used_up_text(found: UsedUp, train_tokens: int, parameters: int) -> str:
    """Return that a training text is used up, what the gap means, and what would help.

    Args:
        found: The evaluation after the second pass.
        train_tokens: Tokens of the training text, 0 if unknown.
        parameters: Parameters of the model, 0 if unknown.
    """
    tokens = f" of {short(train_tokens)} tokens" if train_tokens else ""
    smaller = ", or a smaller model" if parameters * TOKENS_PER_PARAMETER > train_tokens else ""
    gap = gap_text(found.train_loss, found.eval_loss)
    return (
        f"the training text{tokens} is used up: it was read {found.passes} times. {gap[:1].upper()}{gap[1:]}. "
        f"What would help: more text, dropout (--set dropout=0.1){smaller}"
    )
