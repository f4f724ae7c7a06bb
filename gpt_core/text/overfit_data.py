"""Data loader of the self-test (`overfit_tiny`): a few documents, each at the start of its own window."""

from __future__ import annotations

import numpy as np

from gpt_core.errors import CorpusError
from gpt_core.text.data_loader import Batch, epoch_keys, shuffled
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import BOS


class OverfitLoader:
    """One window per document: the document and those after it, cyclically, until the window is full.

    Every document is seen at the start of a context, where generation has the prompt. Everything except which document
    comes first can be memorized, so that the loss can approach zero.
    """

    def __init__(self, text: TokenStream, seq_len: int, seed: int) -> None:
        """Create a loader of windows of `seq_len` tokens (T). Raises CorpusError for a text without a document."""
        self.seq_len = seq_len
        self.seed = seed
        self._ids = text.read(0, len(text))
        self._starts = np.flatnonzero(self._ids == BOS)
        self.windows_per_epoch = len(self._starts)
        if not self.windows_per_epoch:
            raise CorpusError(
                "overfit_tiny: got no line with text, expected at least one; name another file with --train-file"
            )

    def read(self, epoch: int, first: int, count: int) -> Batch:
        """Return the windows from position `first` of an epoch on, cyclically: tokens and targets, (count, T) each."""
        positions = np.arange(first, first + count, dtype=np.int64) % self.windows_per_epoch
        order = shuffled(positions, self.windows_per_epoch, epoch_keys(self.seed, epoch))
        offsets = np.arange(self.seq_len + 1)
        windows = self._ids[(self._starts[order, None] + offsets) % len(self._ids)]
        return windows[:, :-1].copy(), windows[:, 1:].copy()
