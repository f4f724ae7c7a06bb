"""Which pieces a vocabulary has: chosen from a text by how often encoding it uses them.

Best by frequency is meant of use, not of occurrence: of ` the`, `the ` and `he t`, all frequent, the encoder uses few.
So n-grams of 1 to 4 characters are counted, the most frequent, several times as many as wanted, become candidates, and
in rounds the text is encoded with all of them and the least used tenth is dropped.

A piece keeps to one word: it is letters and the white space behind them, or else has no letter in it. Pieces that cross
words save tokens and cost more than that: where a word is cut then depends on where the piece before it happened to
end, and a model has to learn every word in every phase. Measured on the shipped text (train.en, scored on eval.en) with
2,048 ids: bytes a token; bits a byte of Kneser-Ney models of 3 and 4 tokens, and of the nano preset after 500 and
1,500 steps.

| pieces | bytes a token | 3 tokens | 4 tokens | nano, 500 | 1,500 |
| --- | --- | --- | --- | --- | --- |
| any, the most frequent | 2.91 | 1.989 | 1.983 | 2.40 | |
| any, by use | 2.98 | 1.975 | 1.969 | | |
| white space only before other characters, by use | 2.85 | 1.863 | 1.852 | 2.24 | |
| letters with white space before them, or no letters, by use | 2.79 | 1.846 | 1.833 | 2.21 | 2.06 |
| letters with white space behind them, or no letters, by use | 2.82 | 1.854 | 1.844 | 2.17 | 2.00 |

With 16,384 ids it is 3.72 bytes a token and 2.283 bits for any pieces, 3.05 and 1.869 for those that keep to a word.

No vocabulary of 2,048 pieces that was tried (by merging pairs, pruning, growing and pruning in turn) got past 3.04
bytes a token on the eval text. Cutting a text into the fewest tokens, at several times the work of taking the longest
piece, saved 1% to 2% of them where pieces may cross words, and 0.2% where white space is only at one side.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gpt_core.text.documents import joined
from gpt_core.tokenizers.ngrams import NgramCounter
from gpt_core.tokenizers.pieces import FIRST_PIECE, Mode, Tokenizer, check_vocab_size, checked_mode
from gpt_core.tokenizers.trie import PieceTrie, fold_slices

CHOICE_VERSION = 2  # goes up when other pieces are chosen from the same text
SAMPLE_BYTES = 32 << 20  # most text that pieces are chosen from
CANDIDATES_A_PIECE = 4  # n-grams that choosing begins with, for each piece wanted
SHARE_KEPT = 0.9  # of the candidates, by each round

# Signs, digits and white space: ASCII's and Latin 1's, general and CJK punctuation. All else is taken for letters, the
# vowel signs of Indian scripts with them, which Python's `\w` leaves out.
NO_LETTER = r"\x00-@\[-`{-\xbf\xd7\xf7\u2000-\u206f\u3000-\u303f\s"
ONE_WORD = re.compile(rf"[^{NO_LETTER}]+\s*|[{NO_LETTER}]+")

Block = tuple[bytes, NDArray[np.int64]]  # text, and the places in it where chunks end


def train_tokenizer(chunks: Iterable[bytes], vocab_size: int, mode: Mode = "pieces") -> Tokenizer:
    """The tokenizer whose pieces serve `chunks` best, the most used first; the same one for the same chunks.

    Chunks are what is encoded by itself later: no piece reaches over the end of one. Of more than 32 MiB of them,
    blocks of 1 MiB at even distances are looked at; memory is bounded by that and by the table of n-grams, 100 MB. In
    seed mode the chunks are the slices of four bytes, and pieces may mix letters with other characters. Raises
    TokenizerError for a vocab_size out of range.
    """
    check_vocab_size(vocab_size)
    sample = sampled(chunks, checked_mode(mode))
    wanted = vocab_size - FIRST_PIECE
    pieces = frequent_ngrams(sample, CANDIDATES_A_PIECE * wanted, ONE_WORD if mode == "pieces" else None)
    while True:
        uses = count_uses(sample, pieces)
        order = np.argsort(-uses, kind="stable").tolist()
        if len(pieces) <= wanted:
            return Tokenizer([pieces[number] for number in order if uses[number] > 0], vocab_size, mode)
        pieces = [pieces[number] for number in order[: max(wanted, int(SHARE_KEPT * len(pieces)))]]


def sampled(chunks: Iterable[bytes], mode: Mode) -> list[Block]:
    """At most SAMPLE_BYTES of the chunks, in blocks at even distances; folded and in slices in seed mode."""
    kept: list[Block] = []
    size = 0
    stride = 1  # one block in so many is kept
    # words end where chunks do
    parts = ((chunk + b"\n" if mode == "seed" else chunk, True) for chunk in chunks)
    for index, (text, ends) in enumerate(joined(parts)):
        if index % stride:
            continue
        kept.append(fold_slices(text) if mode == "seed" else (text, ends))
        size += len(kept[-1][0])
        if size > SAMPLE_BYTES and len(kept) > 1:
            kept = kept[::2]
            size = sum(len(text) for text, _ in kept)
            stride *= 2
    return kept


def frequent_ngrams(sample: list[Block], most: int, allowed: re.Pattern[str] | None = None) -> list[bytes]:
    """The `most` n-grams of the highest counts that are `allowed`, most frequent first; none that occurs only once."""
    counter = NgramCounter()
    for text, ends in sample:
        counter.add(text, ends)
    keys, counts = counter.items()
    keys, counts = keys[counts > 1], counts[counts > 1]
    order = np.lexsort((keys, -counts.astype(np.int64)))
    ngrams = (counter.text_of(key) for key in keys[order].tolist())
    return list(itertools.islice((ngram for ngram in ngrams if not allowed or allowed.fullmatch(ngram.decode())), most))


def count_uses(sample: list[Block], pieces: list[bytes]) -> NDArray[np.int64]:
    """(pieces,): how often each piece is used when the sample is encoded with all of them."""
    matcher = PieceTrie(pieces, FIRST_PIECE)
    uses = np.zeros(FIRST_PIECE + len(pieces), dtype=np.int64)
    ids = np.empty(max((len(text) for text, _ in sample), default=0), dtype=np.int32)
    for text, ends in sample:
        count = matcher.encode(text, ends, ids)
        uses += np.bincount(ids[:count], minlength=len(uses))
    return uses[FIRST_PIECE:]
