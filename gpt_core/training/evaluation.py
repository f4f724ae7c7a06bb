"""Evaluation of a text: loss, perplexity, token accuracy, and bits per byte, which compares across vocabularies."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

from gpt_core.errors import CorpusError
from gpt_core.model.gpt import GPT
from gpt_core.text.data_loader import sequential_windows
from gpt_core.text.token_stream import TokenStream
from gpt_core.training import losses


class EvalResult(NamedTuple):
    """Result of an evaluation.

    Attributes:
        loss: Mean cross-entropy in nats per token.
        perplexity: exp(loss).
        accuracy: Fraction of targets that are the most probable token.
        bits_per_byte: Sum of the losses in bits, divided by the bytes of the text.
        tokens: Number of targets.
    """

    loss: float
    perplexity: float
    accuracy: float
    bits_per_byte: float
    tokens: int


def evaluation(gpt: GPT, text: TokenStream, seq_len: int, batch: int) -> Generator[int, None, EvalResult]:
    """Evaluate a text, yielding the number of targets so far after each batch; returns the result.

    Args:
        gpt: The model.
        text: Tokens to predict; each is predicted once, from at most `seq_len` tokens before it.
        seq_len: Tokens per window (T).
        batch: Windows per batch (B).

    Raises:
        CorpusError: The text has no target.
    """
    loss_sum, correct, done = 0.0, 0, 0
    for tokens, targets in sequential_windows(text, seq_len, batch):
        sums = gpt.evaluate(tokens, targets)
        loss_sum += sums.loss_sum
        correct += sums.correct
        done += sums.targets
        yield done
    if done == 0:
        raise CorpusError(f"{text.path}: got no token to predict, expected a text of at least two tokens")
    loss = loss_sum / done
    bits_per_byte = loss_sum / math.log(2) / max(text.bytes, 1)
    return EvalResult(loss, losses.perplexity(loss), correct / done, bits_per_byte, done)


def evaluate(gpt: GPT, text: TokenStream, batch: int, progress: Callable[[int, int], None] | None = None) -> EvalResult:
    """Evaluate a text in one call; `progress` receives the targets so far and their total number."""
    steps = evaluation(gpt, text, gpt.shape.seq_len, batch)
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            result: EvalResult = end.value
            return result
        if progress is not None:
            progress(done, len(text) - 1)
