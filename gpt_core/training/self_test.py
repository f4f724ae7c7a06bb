"""Verdict of the self-test: how many of its lines the model reproduces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpt_core.model.gpt import GPT
from gpt_core.text.data_loader import NO_TARGET
from gpt_core.text.overfit_data import OverfitLoader
from gpt_core.tokenizers import PAD

MIN_REPRODUCED = 0.9  # fraction of the lines with which the self-test works


def reproduced(gpt: GPT, lines: OverfitLoader) -> Iterator[bool]:
    """Yield for each line whether greedy decoding from its beginning gives the rest of it.

    The beginning is what distinguishes the line from the others. Greedy decoding gives the rest if and only if each
    token of it is the most probable one after those before it, so that one forward pass per line decides.
    """
    for number in range(lines.windows_per_epoch):
        ids, given = lines.line(number)
        tokens = np.full((1, lines.seq_len), PAD, dtype=np.int32)
        targets = np.full((1, lines.seq_len), NO_TARGET, dtype=np.int32)
        tokens[0, : len(ids) - 1] = ids[:-1]
        targets[0, given - 1 : len(ids) - 1] = ids[given:]
        sums = gpt.evaluate(tokens, targets)
        yield sums.correct == sums.targets
