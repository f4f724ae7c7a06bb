"""Token ids cut into the windows that a model is trained and scored on, in a new random order each epoch.

A text of n tokens is cut with stride T: window i has the inputs s[iT : iT+T] and the targets s[iT+1 : iT+T+1], so every
token but the first is a target once an epoch, `<eos>` included. The last window is filled up with `<pad>` inputs and
targets -1, which the loss leaves out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpt_core.errors import CorpusError
from gpt_core.text.token_stream import SHORTEST_TOKENS, TokenStream
from gpt_core.tokenizers.pieces import PAD

NO_TARGET = -1
BLOCK_WINDOWS = 4096  # places in an epoch's order that are computed at once
ROUNDS = 6

Batch = tuple[NDArray[np.int32], NDArray[np.int32]]  # tokens, targets; both (count, T)


class DataLoader:
    """Windows of a text in an order shuffled by a seed, anew each epoch.

    The order is computed, not stored: place in the epoch -> window is a keyed bijection (`shuffled`), so a run goes
    on at any place of any epoch without a permutation in memory or in a checkpoint.
    """

    def __init__(self, text: TokenStream, seq_len: int, seed: int) -> None:
        """Raises CorpusError if the text has no target."""
        self.text = text
        self.seq_len = seq_len
        self.seed = seed
        self.windows_per_epoch = window_count(text, seq_len)
        self._block: tuple[int, int] = (-1, -1)  # epoch and number of the block of the order that is at hand
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def window(self, epoch: int, index: int) -> int:
        """The number of the window that is the `index`-th of an epoch's order."""
        block, offset = divmod(index, BLOCK_WINDOWS)
        if self._block != (epoch, block):
            begin = block * BLOCK_WINDOWS
            places = np.arange(begin, min(begin + BLOCK_WINDOWS, self.windows_per_epoch), dtype=np.int64)
            self._order = shuffled(places, self.windows_per_epoch, epoch_keys(self.seed, epoch))
            self._block = (epoch, block)
        return int(self._order[offset])

    def read(self, epoch: int, first: int, count: int) -> Batch:
        """The windows from the `first`-th of an epoch's order on: tokens and targets, (count, T) each.

        Places past the end of the epoch give windows of padding. Raises CorpusError if the text cannot be read.
        """
        tokens, targets = padding(count, self.seq_len)
        for row in range(min(count, self.windows_per_epoch - first)):
            fill(self.text, self.window(epoch, first + row), tokens[row], targets[row])
        return tokens, targets


def sequential_windows(text: TokenStream, seq_len: int, batch: int) -> Iterator[Batch]:
    """The windows of a text from its beginning to its end, `batch` at a time, for scoring all of it.

    tokens and targets: (batch, T) each; the last ones are filled up with windows of padding. Raises CorpusError.
    """
    windows = window_count(text, seq_len)
    for first in range(0, windows, batch):
        tokens, targets = padding(batch, seq_len)
        for row in range(min(batch, windows - first)):
            fill(text, first + row, tokens[row], targets[row])
        yield tokens, targets


def window_count(text: TokenStream, seq_len: int) -> int:
    """Windows that make every token but the first a target once. Raises CorpusError if there is no target."""
    if text.count < SHORTEST_TOKENS:
        raise CorpusError(f"the text {text.path} has {text.count} tokens, and at least {SHORTEST_TOKENS} are wanted")
    return math.ceil((text.count - 1) / seq_len)


def padding(count: int, seq_len: int) -> Batch:
    """Windows in which nothing is to be learned."""
    return np.full((count, seq_len), PAD, dtype=np.int32), np.full((count, seq_len), NO_TARGET, dtype=np.int32)


def fill(text: TokenStream, window: int, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> None:
    """Write a window over padding. tokens, targets: (T,), out."""
    stretch = text.read(window * len(tokens), len(tokens) + 1)
    tokens[: len(stretch) - 1] = stretch[:-1]
    targets[: len(stretch) - 1] = stretch[1:]


def epoch_keys(seed: int, epoch: int) -> list[int]:
    """The keys of the rounds of an epoch's shuffle: unrelated for other seeds and epochs."""
    digest = hashlib.sha512(f"window order {seed} {epoch}".encode()).digest()
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS)]


def shuffled(places: NDArray[np.int64], size: int, keys: list[int]) -> NDArray[np.int64]:
    """Where each of the `places` in 0..size-1 goes in a random order of 0..size-1: a bijection for any keys.

    A place is written as left * columns + right, in a grid of rows * columns >= size as square as can be. In turn
    left and right are moved on by a hash of the other, modulo the number of rows or columns: a Feistel network, each
    round of which can be undone. What lands in the grid beyond `size` walks on until it is back inside (Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002); the grid exceeds the size by less than a row, so few do.
    """
    columns = math.isqrt(size - 1) + 1
    rows = -(-size // columns)
    result = grid_feistel(places, rows, columns, keys)
    while len(outside := np.flatnonzero(result >= size)):
        result[outside] = grid_feistel(result[outside], rows, columns, keys)
    return result


def grid_feistel(places: NDArray[np.int64], rows: int, columns: int, keys: list[int]) -> NDArray[np.int64]:
    """One pass of the network of `shuffled` over the whole grid."""
    left, right = (half.astype(np.uint64) for half in np.divmod(places, columns))
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + mixed(right, key) % np.uint64(rows)) % np.uint64(rows)
        else:
            right = (right + mixed(left, key) % np.uint64(columns)) % np.uint64(columns)
    return (left * np.uint64(columns) + right).astype(np.int64)


def mixed(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """A hash of each value under a key: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
