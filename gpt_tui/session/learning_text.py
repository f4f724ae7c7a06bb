"""Signs of learning and of copying in a run, in words: the gap between train and eval loss, and copied passages.

The app and the headless output share it. Does not import Textual.
"""

from __future__ import annotations

from math import exp, isfinite
from typing import NamedTuple

from gpt_tui.shared.formatting import counted, fixed, short
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.scripts import is_unspaced

SMALL_GAP = 0.2
"""Nats up to which the losses count as equal: a token of the training text is at most 1.2 times as probable as one of
the eval text. The train loss is a moving average of steps before the evaluation, so it lags by about that much."""
LARGE_GAP = 0.7
"""Nats from which the model memorizes: about ln 2, so that a token of the training text is twice as probable."""
MAX_PASSAGE = 80  # characters of a passage that are shown


class Gap(NamedTuple):
    """Difference of train and eval loss: its amount, what it means, and a detail for where there is room."""

    amount: str
    meaning: str
    detail: str = ""

    def __str__(self) -> str:
        """Return the gap as one line."""
        return f"{self.amount}: {self.meaning}" + (f" ({self.detail})" if self.detail else "")


def gap_of(train_loss: float, eval_loss: float, passes: float) -> Gap | None:
    """Return what the difference of train and eval loss means; None where it is not known.

    Before a text has been read once, the model cannot have memorized it: the eval text is of another kind.

    Args:
        train_loss: Train loss (smoothed) at the evaluation, in nats.
        eval_loss: Loss of the evaluation, in nats.
        passes: Passes over the training text so far.
    """
    gap = eval_loss - train_loss
    if not isfinite(gap):
        return None
    size = fixed(abs(gap), 1)
    if abs(gap) <= SMALL_GAP:
        return Gap("train and eval loss about equal", "it generalizes to new text")
    if gap < 0:
        return Gap(f"train loss {size} above eval loss", "the eval text is easier, or the train loss lags behind")
    amount = f"train loss {size} below eval loss"
    if passes < 1:
        return Gap(f"{amount} in the first pass", "the eval text differs from the training text")
    if gap < LARGE_GAP:
        return Gap(amount, "the model begins to memorize")
    times = fixed(exp(min(gap, 50)), 1)
    return Gap(amount, "the model memorizes", f"training tokens {times} times as probable")


def gap_text(train_loss: float, eval_loss: float, passes: float) -> str:
    """Return `gap_of` as one line; "" where it is not known."""
    return str(gap_of(train_loss, eval_loss, passes) or "")


def copied_text(passage: str | None, searched: int = 0, *, sample: str = "") -> str:
    """Return the longest passage of a sample from the training text; "" where it is not known.

    Its length is in words, without those that it has only a part of, or in characters in a script without spaces
    between words, and where less than two words are left.

    Args:
        passage: The passage; "" for none, None if unknown.
        searched: Tokens at the start of the training text that were searched; 0 for all.
        sample: The prompt and the sample.
    """
    if passage is None:
        return ""
    where = f"the first {short(searched)} tokens of the training text" if searched else "the training text"
    words = passage.split()
    if not words:
        return f"no passage from {where}"
    count = counted(len("".join(words)), "character")
    if not any(map(is_unspaced, passage)) and len(whole := whole_words(passage, sample).split()) > 1:
        count, passage = counted(len(whole), "word"), " ".join(whole)
    return f"longest passage from {where}: {count}: “{one_line(passage, MAX_PASSAGE)}”"


def whole_words(passage: str, sample: str) -> str:
    """Return a passage of a sample without the words at its start and end that it has only a part of."""
    start = sample.rfind(passage)
    before, after = sample[: max(0, start)], sample[start + len(passage) :] if start >= 0 else ""
    if before[-1:].isalnum() and passage[:1].isalnum():
        passage = passage[len(passage.split()[0]) :]
    if after[:1].isalnum() and passage[-1:].isalnum():
        passage = passage[: -len(passage.split()[-1])]
    return passage
