"""Choose the pieces of a vocabulary from a text, by how often encoding uses each of them.

The number of uses differs from the number of occurrences: of ` the`, `the ` and `he t`, all frequent, longest-match
encoding uses few. Selection therefore starts with several times as many frequent n-grams of 1 to 4 characters as there
are pieces needed. In each round it encodes the text with all candidates and drops the least used tenth.

A piece stays inside one word: it is either letters followed by white space, or contains no letter. Pieces that cross
words need fewer tokens but cost more loss: where a word is cut then depends on where the piece before it ended, and the
model has to learn each word in every alignment. Measured on the shipped text (train.en, scored on eval.en) with 2,048
ids: bytes per token; bits per byte of Kneser-Ney models of order 3 and 4, and of the nano preset after 500 and 1,500
steps.

| pieces | bytes per token | order 3 | order 4 | nano, 500 | 1,500 |
| --- | --- | --- | --- | --- | --- |
| any, most frequent | 2.91 | 1.989 | 1.983 | 2.40 | |
| any, by use | 2.98 | 1.975 | 1.969 | | |
| white space only before other characters, by use | 2.85 | 1.863 | 1.852 | 2.24 | |
| letters preceded by white space, or no letters, by use | 2.79 | 1.846 | 1.833 | 2.21 | 2.06 |
| letters followed by white space, or no letters, by use | 2.82 | 1.854 | 1.844 | 2.17 | 2.00 |

With 16,384 ids: 3.72 bytes per token and 2.283 bits per byte for any pieces, 3.05 and 1.869 for pieces inside words.

Other selections of 2,048 pieces (merging pairs, pruning, growing and pruning in turn) reached at most 3.04 bytes per
token on the eval text. Encoding with the minimum number of tokens instead of the longest match takes several times as
long. It saves 1% to 2% of the tokens where pieces may cross words, and 0.2% where white space is at one side only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from gpt_core.tokenizers.blocks import Block, join_parts
from gpt_core.tokenizers.ngrams import NgramCounter
from gpt_core.tokenizers.protocol import FIRST_PIECE, SAMPLE_BYTES
from gpt_core.tokenizers.trie import PieceTrie

CANDIDATES_PER_PIECE = 4  # n-grams that selection starts with, per piece needed
KEPT_FRACTION = 0.9  # of the candidates, per round

# Symbols, digits and white space: ASCII's and Latin 1's, general and CJK punctuation. All other characters count as
# letters, including the vowel signs of Indian scripts, which Python's `\w` does not match.
NO_LETTER = r"\x00-@\[-`{-\xbf\xd7\xf7\u2000-\u206f\u3000-\u303f\s"
ONE_WORD = re.compile(rf"[^{NO_LETTER}]+\s*|[{NO_LETTER}]+")


def choose_pieces(
    chunks: Iterable[bytes],
    count: int,
    *,
    fold: Callable[[bytes], Block] | None = None,
    allowed: re.Pattern[str] | None = None,
) -> list[bytes]:
    """Choose at most `count` pieces for encoding `chunks`, most used first. Deterministic.

    Args:
        chunks: Text that is later encoded separately: no piece crosses the end of a chunk.
        count: Pieces needed. Pieces that encoding would never use are left out.
        fold: Normalization of the text, which also returns where its parts end.
        allowed: Pattern that pieces must match.
    """
    sample = sample_blocks(chunks, fold)
    pieces = frequent_ngrams(sample, CANDIDATES_PER_PIECE * count, allowed)
    while True:
        uses = count_uses(sample, pieces)
        order = np.argsort(-uses, kind="stable").tolist()
        if len(pieces) <= count:
            return [pieces[number] for number in order if uses[number] > 0]
        pieces = [pieces[number] for number in order[: max(count, int(KEPT_FRACTION * len(pieces)))]]


def sample_blocks(chunks: Iterable[bytes], fold: Callable[[bytes], Block] | None = None) -> list[Block]:
    """Return at most SAMPLE_BYTES of the chunks, in blocks at regular intervals, folded if there is a `fold`."""
    sample: list[Block] = []
    size = 0
    stride = 1  # every stride-th block is used
    for index, (text, ends) in enumerate(join_parts((chunk, True) for chunk in chunks)):
        if index % stride:
            continue
        sample.append(fold(text) if fold else (text, ends))
        size += len(sample[-1][0])
        if size > SAMPLE_BYTES and len(sample) > 1:
            sample = sample[::2]
            size = sum(len(text) for text, _ in sample)
            stride *= 2
    return sample


def frequent_ngrams(sample: list[Block], max_count: int, allowed: re.Pattern[str] | None = None) -> list[bytes]:
    """Return the most frequent n-grams that match `allowed`, most frequent first; none that occurs only once."""
    counter = NgramCounter()
    for text, ends in sample:
        counter.add(text, ends)
    keys, counts = counter.items()
    keys, counts = keys[counts > 1], counts[counts > 1]
    order = np.lexsort((keys, -counts.astype(np.int64)))
    ngrams = (counter.text_of(key) for key in keys[order].tolist())
    matching = (ngram for ngram in ngrams if not allowed or allowed.fullmatch(ngram.decode()))
    return list(itertools.islice(matching, max_count))


def count_uses(sample: list[Block], pieces: list[bytes]) -> NDArray[np.int64]:
    """Count how often encoding the sample with all pieces uses each of them. Shape: (pieces,)."""
    trie = PieceTrie(pieces, FIRST_PIECE)
    uses = np.zeros(FIRST_PIECE + len(pieces), dtype=np.int64)
    ids = np.empty(max((len(text) for text, _ in sample), default=0), dtype=np.int32)
    for text, ends in sample:
        count = trie.encode(text, ends, ids)
        uses += np.bincount(ids[:count], minlength=len(uses))
    return uses[FIRST_PIECE:]
