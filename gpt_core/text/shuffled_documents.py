"""Text whose documents are in another order in each epoch.

The order is a keyed permutation of the documents (`gpt_core.text.data_loader.shuffled`), computed from seed and epoch,
so that a run can resume anywhere without a stored order. Windows then cut the text at other places in each epoch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.token_stream import TokenStream

SCANNED = 1 << 20  # tokens in which the starts of documents are searched at once
DOCUMENT_BYTES = 6 * 8
"""Peak memory per document, measured while the order of an epoch is computed. Three numbers are kept: the start in the
text, and start and end in that order."""


class ShuffledDocuments:
    """Source of tokens: the documents of a text in a given order, one after another."""

    def __init__(self, text: TokenStream, starts: NDArray[np.int64], order: NDArray[np.int64]) -> None:
        """Create a source.

        Args:
            text: The text.
            starts: Offsets at which its documents begin; see `document_starts`.
            order: Numbers of the documents, in the new order.
        """
        self._text = text
        self._starts = starts[order]
        lengths = np.diff(starts, append=len(text))[order]
        self._ends = np.cumsum(lengths)  # in the new order

    def read(self, start: int, count: int) -> NDArray[np.int32]:
        """Return `count` ids from `start` on. Raises CorpusError if the text cannot be read."""
        pieces = []
        document = int(np.searchsorted(self._ends, start, side="right"))
        while count > 0:
            left = int(self._ends[document]) - start
            size = min(count, left)
            length = int(self._ends[document]) - (int(self._ends[document - 1]) if document else 0)
            pieces.append(self._text.read(int(self._starts[document]) + length - left, size))
            start, count, document = start + size, count - size, document + 1
        return np.concatenate(pieces) if pieces else np.empty(0, np.int32)


def document_starts(text: TokenStream, progress: Progress = ignore_progress) -> NDArray[np.int64]:
    """Return the offsets at which the documents of a text begin; the first is 0, also within a document."""
    found = []
    for first in range(0, len(text), SCANNED):
        if first > 0:  # a short text is searched at once
            progress("finding the documents of the text", first / len(text))
        found.append(text.document_starts(first, first + SCANNED))
    starts = np.concatenate(found)
    return starts if len(starts) and starts[0] == 0 else np.concatenate([np.zeros(1, np.int64), starts])


def in_order(text: TokenStream, starts: NDArray[np.int64], order: NDArray[np.int64]) -> TokenStream:
    """Return a text with its documents in another order."""
    return replace(text, source=ShuffledDocuments(text, starts, order), start=0)
