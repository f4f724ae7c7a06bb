"""Evaluation of a text: loss, perplexity, token accuracy, and bits per byte, which compares across vocabularies.

During a run a fixed part of a long eval text is scored every `eval_every_steps`, and all of it after epochs and at the
end. Of epochs that are much shorter than this interval, only some are followed by an evaluation: it and its sample
would take longer than the training. A complete evaluation scores the part first, in the same batches: the scores of the
part are comparable at all steps, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from gpt_core.config.settings import Settings
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator
from gpt_core.errors import CorpusError
from gpt_core.model.gpt import GPT, EvalSums
from gpt_core.text.data_loader import Batch, sequential_windows, spread, window_count, windows_in_batches
from gpt_core.text.token_stream import TokenStream, bytes_between
from gpt_core.training import losses

MAX_EPOCH_EVALUATIONS = 10  # after epochs, per interval of `eval_every_steps`

NO_SUMS = EvalSums(0.0, 0, 0)


class EvalResult(NamedTuple):
    """Result of an evaluation.

    Attributes:
        loss: Mean cross-entropy in nats per token.
        perplexity: exp(loss).
        accuracy: Fraction of targets that are the most probable token.
        bits_per_byte: Sum of the losses in bits, divided by the bytes of the text that the targets encode.
        tokens: Number of targets.
    """

    loss: float
    perplexity: float
    accuracy: float
    bits_per_byte: float
    tokens: int


class RunScores(NamedTuple):
    """Scores of a run at one step.

    Attributes:
        part: Scores of the part that every evaluation covers; of the complete text if that is the part.
        full: Scores of the complete text; None if only the part was scored, or if the part is the complete text.
    """

    part: EvalResult
    full: EvalResult | None


class EvalText:
    """Eval text of a run, and the fixed part of it that every evaluation scores.

    Attributes:
        text: The complete text.
        seq_len: Tokens per window (T).
        part: Numbers of the windows of the part, at regular intervals; None if the part is the complete text.
        part_tokens: Targets in the part.
    """

    def __init__(self, text: TokenStream, seq_len: int, max_tokens: int) -> None:
        """Choose the part: as many windows as hold `max_tokens` targets, all of them if it is 0.

        Raises:
            CorpusError: The text has no target or cannot be read.
        """
        self.text = text
        self.seq_len = seq_len
        self.windows = window_count(text, seq_len)
        count = part_windows(text, seq_len, max_tokens)
        self.part = spread(self.windows, count) if count else None
        self.part_tokens, self._part_bytes = self.tokens, float(text.target_bytes)
        if self.part is not None:
            ends = np.minimum((self.part + 1) * seq_len, self.tokens)
            self.part_tokens = int((ends - self.part * seq_len).sum())
            self._part_bytes = self._bytes_of(self.part.tolist(), ends.tolist())

    @property
    def tokens(self) -> int:
        """Targets in the complete text."""
        return self.text.count - 1

    def scores(
        self, gpt: GPT, batch: int, *, complete: bool, ranks: Communicator = SINGLE_PROCESS
    ) -> Generator[int, None, RunScores]:
        """Score the part and, if `complete`, the rest, yielding the number of targets so far after each batch.

        The ranks share the batches: each of them scores one, and then the next as many. The sums are added in the order
        of the batches, so that they have the same bits on any number of ranks. Collective.

        Args:
            gpt: The model.
            batch: Windows per batch (B).
            complete: True to score the complete text.
            ranks: Ranks that score the text together.
        """
        if self.part is None:
            sums = yield from _summed(gpt, sequential_windows(self.text, self.seq_len, batch), NO_SUMS, ranks)
            return RunScores(_result(sums, self.text.target_bytes, self.text), None)
        numbers = self.part.tolist()
        sums = yield from _summed(gpt, windows_in_batches(self.text, numbers, self.seq_len, batch), NO_SUMS, ranks)
        part = _result(sums, self._part_bytes, self.text)
        if not complete:
            return RunScores(part, None)
        in_part = frozenset(numbers)
        others = (number for number in range(self.windows) if number not in in_part)
        sums = yield from _summed(gpt, windows_in_batches(self.text, others, self.seq_len, batch), sums, ranks)
        return RunScores(part, _result(sums, self.text.target_bytes, self.text))

    def _bytes_of(self, part: list[int], ends: list[int]) -> float:
        """Return the bytes of the part: those of its targets, and its share of the bytes between documents."""
        starts = (number * self.seq_len for number in part)
        in_part = sum(bytes_between(self.text, start + 1, end + 1) for start, end in zip(starts, ends, strict=True))
        return self.text.target_bytes * in_part / max(bytes_between(self.text, 1, self.text.count), 1)


def part_windows(text: TokenStream, seq_len: int, max_tokens: int) -> int:
    """Return the number of windows of the part that holds `max_tokens` targets, 0 for the complete text."""
    count = math.ceil(max_tokens / seq_len)
    return count if count < window_count(text, seq_len) else 0


def max_part_tokens(settings: Settings) -> int:
    """Return the targets in the part, 0 for all. Without evaluations between epochs it is the complete text."""
    return settings.eval_tokens if settings.eval_every_steps else 0


def epochs_per_evaluation(eval_every_steps: int, steps_per_epoch: int) -> int:
    """Return the number of epochs that an evaluation follows: 1, or more if they are short.

    Args:
        eval_every_steps: The setting.
        steps_per_epoch: Steps of an epoch.
    """
    return max(1, math.ceil(eval_every_steps / (MAX_EPOCH_EVALUATIONS * steps_per_epoch)))


def evaluate(gpt: GPT, text: TokenStream, batch: int, progress: Callable[[int, int], None] | None = None) -> EvalResult:
    """Evaluate a text in one call: predict each token once, from at most the context before it.

    Args:
        gpt: The model.
        text: Tokens to predict.
        batch: Windows per batch (B).
        progress: Receives the number of targets so far and their total number.

    Raises:
        CorpusError: The text has no target or cannot be read.
    """
    seq_len = min(gpt.shape.seq_len, text.count - 1)  # of a text shorter than the context, nothing is padding
    steps = EvalText(text, seq_len, 0).scores(gpt, batch, complete=True)
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            scores: RunScores = end.value
            return scores.part
        if progress is not None:
            progress(done, len(text) - 1)


def _summed(gpt: GPT, batches: Iterator[Batch], sums: EvalSums, ranks: Communicator) -> Generator[int, None, EvalSums]:
    """Add the sums of batches to `sums`, yielding the number of targets so far after each batch per rank."""
    while shared := list(islice(batches, len(ranks.hosts))):
        own = gpt.evaluate(*shared[ranks.rank]) if ranks.rank < len(shared) else NO_SUMS
        for loss_sum, correct, targets in ranks.gather(np.array(own, np.float64))[: len(shared)].tolist():
            sums = EvalSums(sums.loss_sum + loss_sum, sums.correct + int(correct), sums.targets + int(targets))
        yield sums.targets
    return sums


def _result(sums: EvalSums, text_bytes: float, text: TokenStream) -> EvalResult:
    """Return the means of sums over targets that encode `text_bytes`."""
    if sums.targets == 0:
        raise CorpusError(f"{text.name}: got no token to predict, expected a text of at least two tokens")
    loss = sums.loss_sum / sums.targets
    bits_per_byte = sums.loss_sum / math.log(2) / max(text_bytes, 1)
    return EvalResult(loss, losses.perplexity(loss), sums.correct / sums.targets, bits_per_byte, sums.targets)
