"""Scoring a whole text: loss, token accuracy, perplexity, and bits a byte, which compares across vocabularies."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

from gpt_core.errors import CorpusError
from gpt_core.model.gpt import GPT
from gpt_core.text.data_loader import sequential_windows
from gpt_core.text.token_stream import TokenStream
from gpt_core.training.losses import perplexity


class EvalResult(NamedTuple):
    """Means over every target of a text. `bits_per_byte`: all its targets' bits over the bytes of the text."""

    loss: float
    ppl: float
    accuracy: float
    bits_per_byte: float
    tokens: int


def evaluation(gpt: GPT, text: TokenStream, seq_len: int, batch: int) -> Generator[int, None, EvalResult]:
    """Scores a text, `batch` windows of `seq_len` tokens at a time. Yields the targets done so far, returns the result.

    Raises CorpusError for a text without a target.
    """
    loss_sum, correct, done = 0.0, 0, 0
    for tokens, targets in sequential_windows(text, seq_len, batch):
        sums = gpt.evaluate(tokens, targets)
        loss_sum += sums.loss_sum
        correct += sums.correct
        done += sums.targets
        yield done
    if done == 0:
        raise CorpusError(f"{text.path}: got no token to predict, wanted a text of two tokens or more")
    loss = loss_sum / done
    return EvalResult(loss, perplexity(loss), correct / done, loss_sum / math.log(2) / max(text.bytes, 1), done)


def evaluate(gpt: GPT, text: TokenStream, batch: int, progress: Callable[[int, int], None] | None = None) -> EvalResult:
    """The same in one call; `progress` is told the targets done and the targets in all."""
    steps = evaluation(gpt, text, gpt.shape.seq_len, batch)
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            result: EvalResult = end.value
            return result
        if progress is not None:
            progress(done, len(text) - 1)
