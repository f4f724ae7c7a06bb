"""Windows of token ids for training and evaluation, shuffled anew each epoch.

A text of n tokens s is cut with stride T: window i has the inputs s[iT : iT+T] and the targets s[iT+1 : iT+T+1]. Every
token except the first is therefore a target once per epoch, `<eos>` included. The last window is padded with `<pad>`
inputs and targets of -1, which the loss ignores.

With `documents` shuffled, s is the text with its documents in another order in each epoch, so that windows begin at
other tokens, and documents have other neighbors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import CorpusError
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.shuffled_documents import document_starts, in_order
from gpt_core.text.token_stream import MIN_TOKENS, TokenStream
from gpt_core.tokenizers import PAD

NO_TARGET = -1
BLOCK_WINDOWS = 4096  # positions of an epoch's order that are computed together
FEISTEL_ROUNDS = 6

Batch = tuple[NDArray[np.int32], NDArray[np.int32]]  # tokens, targets; both (count, T)


class DataLoader:
    """Windows of a text, in an order that a seed and the number of the epoch determine.

    The order is computed, not stored: `shuffled` is a keyed bijection from position in the epoch to window. A run can
    therefore resume at any position of any epoch without a permutation in memory or in a checkpoint.
    """

    def __init__(
        self,
        text: TokenStream,
        seq_len: int,
        seed: int,
        *,
        documents: bool = False,
        progress: Progress = ignore_progress,
    ) -> None:
        """Create a loader.

        Args:
            text: The text.
            seq_len: Tokens per window (T).
            seed: Random seed.
            documents: Shuffle the documents before the windows; their starts are then searched in all of the text.
            progress: Receives the fraction of the text that was searched.

        Raises:
            CorpusError: The text has no target, or cannot be read.
        """
        self.text = text
        self.seq_len = seq_len
        self.seed = seed
        self.windows_per_epoch = window_count(text, seq_len)
        self._block: tuple[int, int] = (-1, -1)  # epoch and number of the block of the order in `_order`
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._starts = document_starts(text, progress) if documents else None
        self._text_of_epoch: tuple[int, TokenStream] = (-1, text)

    def window(self, epoch: int, index: int) -> int:
        """Return the number of the window at position `index` of an epoch."""
        block, offset = divmod(index, BLOCK_WINDOWS)
        if self._block != (epoch, block):
            begin = block * BLOCK_WINDOWS
            positions = np.arange(begin, min(begin + BLOCK_WINDOWS, self.windows_per_epoch), dtype=np.int64)
            self._order = shuffled(positions, self.windows_per_epoch, epoch_keys(self.seed, epoch))
            self._block = (epoch, block)
        return int(self._order[offset])

    def read(self, epoch: int, first: int, count: int) -> Batch:
        """Return the windows from position `first` of an epoch on.

        Returns:
            Tokens and targets, (count, T) each. Positions past the end of the epoch yield windows of padding.

        Raises:
            CorpusError: The text cannot be read.
        """
        tokens, targets = _padding(count, self.seq_len)
        text = self.text_of(epoch)
        for row in range(min(count, self.windows_per_epoch - first)):
            _fill(text, self.window(epoch, first + row), tokens[row], targets[row])
        return tokens, targets

    def text_of(self, epoch: int) -> TokenStream:
        """Return the text that the windows of an epoch cut. Raises CorpusError if it cannot be read."""
        if self._starts is None:
            return self.text
        if self._text_of_epoch[0] != epoch:
            self._text_of_epoch = (-1, self.text)  # frees the previous order before the next one is computed
            numbers = np.arange(len(self._starts), dtype=np.int64)
            order = shuffled(numbers, len(numbers), epoch_keys(self.seed, epoch, "document"))
            self._text_of_epoch = (epoch, in_order(self.text, self._starts, order))
        return self._text_of_epoch[1]


def sequential_windows(text: TokenStream, seq_len: int, batch: int) -> Iterator[Batch]:
    """Yield all windows of a text in order. Yields and raises as `windows_in_batches`."""
    return windows_in_batches(text, range(window_count(text, seq_len)), seq_len, batch)


def windows_in_batches(text: TokenStream, windows: Iterable[int], seq_len: int, batch: int) -> Iterator[Batch]:
    """Yield windows of a text in the given order, for evaluation.

    Args:
        text: The text.
        windows: Numbers of the windows.
        seq_len: Tokens per window (T).
        batch: Windows per batch (B).

    Yields:
        Tokens and targets, (batch, T) each. The last batch is filled with windows of padding.

    Raises:
        CorpusError: The text cannot be read.
    """
    remaining = iter(windows)
    while numbers := list(islice(remaining, batch)):
        tokens, targets = _padding(batch, seq_len)
        for row, number in enumerate(numbers):
            _fill(text, number, tokens[row], targets[row])
        yield tokens, targets


def spread(windows: int, count: int) -> NDArray[np.int64]:
    """Return the numbers of `count` of the `windows` windows of a text, at regular intervals, in order."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * windows // (2 * count)


def window_count(text: TokenStream, seq_len: int) -> int:
    """Return the number of windows of a text. Raises CorpusError if the text has no target."""
    if text.count < MIN_TOKENS:
        raise CorpusError(
            f"the text {text.name} is too short: got {text.count} tokens, expected at least {MIN_TOKENS}; "
            "use a longer text"
        )
    return math.ceil((text.count - 1) / seq_len)


def _padding(count: int, seq_len: int) -> Batch:
    """Return windows of padding: tokens and targets, (count, T) each."""
    return np.full((count, seq_len), PAD, dtype=np.int32), np.full((count, seq_len), NO_TARGET, dtype=np.int32)


def _fill(text: TokenStream, window: int, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> None:
    """Write window number `window` into rows of padding: tokens and targets, (T,) each."""
    ids = text.read(window * len(tokens), len(tokens) + 1)
    tokens[: len(ids) - 1] = ids[:-1]
    targets[: len(ids) - 1] = ids[1:]


def epoch_keys(seed: int, epoch: int, what: str = "window") -> list[int]:
    """Return the round keys of an epoch's shuffle, unrelated between seeds, epochs, and what is shuffled."""
    digest = hashlib.sha512(f"{what} order {seed} {epoch}".encode()).digest()
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(FEISTEL_ROUNDS)]


def shuffled(positions: NDArray[np.int64], size: int, keys: list[int]) -> NDArray[np.int64]:
    """Permute 0..size-1 pseudo-randomly, and return the images of `positions`. A bijection for any keys.

    A position is split into left * columns + right, in a nearly square grid of rows * columns >= size. Left and right
    are alternately incremented by a hash of the other one, modulo the number of rows or columns: a Feistel network,
    each round of which is invertible. An image outside 0..size-1 is permuted again until it is inside ("cycle walking",
    Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The grid exceeds the size by less than one row,
    so this is rare.

    Args:
        positions: Positions from 0 to size-1. Shape: (n,).
        size: Length of the permutation.
        keys: Keys of the rounds (see `epoch_keys`).

    Returns:
        Shape: (n,).
    """
    columns = math.isqrt(size - 1) + 1
    rows = -(-size // columns)
    result = _feistel(positions, rows, columns, keys)
    while len(outside := np.flatnonzero(result >= size)):
        result[outside] = _feistel(result[outside], rows, columns, keys)
    return result


def _feistel(positions: NDArray[np.int64], rows: int, columns: int, keys: list[int]) -> NDArray[np.int64]:
    """Apply all rounds of the network of `shuffled`: a permutation of the grid."""
    left, right = (half.astype(np.uint64) for half in np.divmod(positions, columns))
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + _hashed(right, key) % np.uint64(rows)) % np.uint64(rows)
        else:
            right = (right + _hashed(left, key) % np.uint64(columns)) % np.uint64(columns)
    return (left * np.uint64(columns) + right).astype(np.int64)


def _hashed(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Hash each value with a key: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
