"""Windows for tiny overfit: a few documents, each of which begins a window of its own."""

from __future__ import annotations

import numpy as np

from gpt_core.errors import CorpusError
from gpt_core.text.data_loader import Batch, epoch_keys, shuffled
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers.pieces import BOS


class OverfitLoader:
    """One window for each document: it and those after it, in a circle, until the window is full.

    So every document is seen at the beginning of a context, where a prompt stands when text is generated, and all but
    which document comes first can be known by heart: the loss can go to nearly nothing.
    """

    def __init__(self, text: TokenStream, seq_len: int, seed: int) -> None:
        """Raises CorpusError for a text without a document."""
        self.seq_len = seq_len
        self.seed = seed
        self._ids = text.read(0, len(text))
        self._starts = np.flatnonzero(self._ids == BOS)
        self.windows_per_epoch = len(self._starts)
        if not self.windows_per_epoch:
            raise CorpusError("tiny overfit: got no line with text in it, wanted at least one")

    def read(self, epoch: int, first: int, count: int) -> Batch:
        """Tokens and targets (count, T) of the windows from the first-th of an epoch's order on, in a circle."""
        places = np.arange(first, first + count, dtype=np.int64) % self.windows_per_epoch
        order = shuffled(places, self.windows_per_epoch, epoch_keys(self.seed, epoch))
        stretch = np.arange(self.seq_len + 1)
        windows = self._ids[(self._starts[order, None] + stretch) % len(self._ids)]
        return windows[:, :-1].copy(), windows[:, 1:].copy()
