"""Data loader of the self-test (`overfit_tiny`): a few documents, each at the start of its own window."""

from __future__ import annotations

from itertools import pairwise, takewhile
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import CorpusError
from gpt_core.text.data_loader import Batch, epoch_keys, shuffled
from gpt_core.text.token_stream import TokenStream


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
        self._starts = text.document_starts(0, len(text))
        self.windows_per_epoch = len(self._starts)
        if not self.windows_per_epoch:
            raise CorpusError(
                "overfit_tiny: got no line with text, expected at least one", "; name another file with --train-file"
            )
        ends = (*self._starts[1:], len(self._ids))
        self._lines = [self._ids[start:end][: seq_len + 1] for start, end in zip(self._starts, ends, strict=True)]
        self._shared_ids = _shared_starts(self._lines)

    def line(self, number: int) -> tuple[NDArray[np.int32], int]:
        """Return the ids of a document, as many as a window holds, and how many of them identify it.

        These are `<bos>`, if documents have it, and the first tokens, at least one, up to the one that no other
        document has at its place; the last id is never one of them.
        """
        ids = self._lines[number]
        return ids, max(1, min(self._shared_ids[ids.tobytes()] + 1, len(ids) - 1))

    def read(self, epoch: int, first: int, count: int) -> Batch:
        """Return the windows from position `first` of an epoch on, cyclically: tokens and targets, (count, T) each."""
        positions = np.arange(first, first + count, dtype=np.int64) % self.windows_per_epoch
        order = shuffled(positions, self.windows_per_epoch, epoch_keys(self.seed, epoch))
        offsets = np.arange(self.seq_len + 1)
        windows = self._ids[(self._starts[order, None] + offsets) % len(self._ids)]
        return windows[:, :-1].copy(), windows[:, 1:].copy()


def _shared_starts(lines: list[NDArray[np.int32]]) -> dict[bytes, int]:
    """Return for each distinct line how many ids it shares at its start with another one, at least one.

    Where documents have a `<bos>`, that is the one.
    """
    distinct = sorted({line.tobytes(): line.tolist() for line in lines}.items(), key=itemgetter(1))
    shared = {key: 1 for key, _ in distinct}
    for (key, ids), (next_key, next_ids) in pairwise(distinct):  # the longest start is shared with a neighbor
        pairs = zip(ids, next_ids, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared[key], shared[next_key] = max(shared[key], common), max(shared[next_key], common)
    return shared
