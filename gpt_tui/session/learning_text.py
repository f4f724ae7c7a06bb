"""What a run shows of learning or copying, in words: the gap between train and eval loss, and copied passages.

The app and the headless output share it. Does not import Textual.
"""

from __future__ import annotations

from math import exp, isfinite

from gpt_tui.shared.formatting import fixed, integer, short
from gpt_tui.shared.sanitize import one_line

SMALL_GAP = 0.2
"""Nats up to which the losses count as equal: a token of the training text is at most 1.2 times as probable as one of
the eval text. The train loss is a moving average of steps before the evaluation, so it lags by about that much."""
LARGE_GAP = 0.7
"""Nats from which the model memorizes: about ln 2, so that a token of the training text is twice as probable."""
MAX_PASSAGE = 80  # characters of a passage


def gap_text(train_loss: float, eval_loss: float, passes: float) -> str:
    """Return what the difference of train and eval loss means; "" where it is not known.

    Before a text has been read once, a gap is no memory of it: the eval text is another kind of text.

    Args:
        train_loss: Train loss (smoothed) at the evaluation.
        eval_loss: Loss of the evaluation.
        passes: Passes over the training text so far.
    """
    gap = eval_loss - train_loss
    if not isfinite(gap):
        return ""
    size = fixed(abs(gap), 1)
    if abs(gap) <= SMALL_GAP:
        return "train and eval loss about equal: what it learns holds for new text"
    if gap < 0:
        return f"train loss {size} above eval loss: the eval text is easier, or the train loss lags behind"
    if passes < 1:
        return f"train loss {size} below eval loss in the first pass: the eval text differs from the training text"
    if gap < LARGE_GAP:
        return f"train loss {size} below eval loss: the model begins to memorize"
    times = fixed(exp(min(gap, 50)), 1)
    return f"train loss {size} below eval loss: the model memorizes (training tokens {times} times as probable)"


def copied_text(passage: str | None, searched: int = 0, length: int = MAX_PASSAGE) -> str:
    """Return the longest passage of a sample from the training text in words; "" where it is not known.

    Args:
        passage: The passage; "" for none, None if unknown.
        searched: Tokens at the start of the training text that were searched; 0 for all.
        length: Maximum number of characters of the passage that are shown.
    """
    if passage is None:
        return ""
    where = f"the first {short(searched)} tokens of the training text" if searched else "the training text"
    words = passage.split()
    if not words:
        return f"no passage from {where}"
    count = f"{integer(len(words))} words" if len(words) > 1 else f"{integer(len(words[0]))} characters"
    return f"longest passage from {where}: {count}: “{one_line(passage, length)}”"
