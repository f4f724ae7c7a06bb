"""How a vocabulary's pieces are chosen from a text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gpt_core.text.corpus import joined
from gpt_core.text.tokenizer import NgramCounter, PieceMatcher, fold_slices
from gpt_core.text.vocabulary import FIRST_PIECE, Mode, Tokenizer, check_vocab_size, checked_mode

OTHER = r"\x00-@\[-`{-\xbf\u2000-\u206f\u3000-\u303f\s"  # no letters: signs, digits, white space
WORD_PART = re.compile(rf"\s*[^{OTHER}]+|[{OTHER}]+")

SAMPLE_BYTES = 32 << 20  # most text that pieces are chosen from
CHOICE_VERSION = 1  # goes up when another choice is made from the same text
CANDIDATES_A_PIECE = 4  # n-grams that choosing begins with, for each piece wanted
SHARE_KEPT = 0.9  # of the candidates, by each round of choosing

Block = tuple[bytes, NDArray[np.int64]]  # text, and where in it chunks end


def train_tokenizer(chunks: Iterable[bytes], vocab_size: int, mode: Mode = "pieces") -> Tokenizer:
    """The tokenizer whose pieces serve `chunks` best; the same one for the same chunks."""
    check_vocab_size(vocab_size)
    checked_mode(mode)
    sample = sampled(chunks, mode)
    wanted = vocab_size - FIRST_PIECE
    pieces = frequent_ngrams(sample, CANDIDATES_A_PIECE * wanted)
    while True:
        uses = count_uses(sample, pieces)
        order = np.argsort(-uses, kind="stable")
        keep = max(wanted, int(SHARE_KEPT * len(pieces)))
        done = len(pieces) <= wanted
        pieces = [pieces[i] for i in order[:keep] if uses[i] > 0]
        if done:
            return Tokenizer(pieces, vocab_size, mode)


def sampled(chunks: Iterable[bytes], mode: Mode) -> list[Block]:
    """At most SAMPLE_BYTES of the chunks, in blocks at even distances; folded and in slices in seed mode."""
    kept: list[Block] = []
    stride = 1  # one block in so many is kept
    parts = ((chunk + b"\n" if mode == "seed" else chunk, True) for chunk in chunks)
    for index, (text, ends) in enumerate(joined(parts)):
        if index % stride == 0:
            kept.append(fold_slices(text) if mode == "seed" else (text, ends))
        if sum(len(text) for text, _ in kept) > SAMPLE_BYTES:
            kept = kept[::2]
            stride *= 2
    return kept


def frequent_ngrams(sample: list[Block], most: int) -> list[bytes]:
    """The `most` n-grams of the highest counts, most frequent first; none that occurs once only."""
    counter = NgramCounter()
    for text, ends in sample:
        counter.add(text, ends)
    keys, counts = counter.items()
    keys, counts = keys[counts > 1], counts[counts > 1]
    order = np.lexsort((keys, -counts.astype(np.int64)))
    allowed = (text for text in map(counter.text_of, keys[order].tolist()) if WORD_PART.fullmatch(text.decode()))
    return list(itertools.islice(allowed, most))


def count_uses(sample: list[Block], pieces: list[bytes]) -> NDArray[np.int64]:
    """(pieces,): how often each piece is used when the sample is encoded with all of them."""
    matcher = PieceMatcher(pieces, FIRST_PIECE)
    uses = np.zeros(FIRST_PIECE + len(pieces), dtype=np.int64)
    ids = np.empty(max((len(text) for text, _ in sample), default=0), dtype=np.int32)
    for text, ends in sample:
        count = matcher.encode(text, ends, ids)
        uses += np.bincount(ids[:count], minlength=len(uses))
    return uses[FIRST_PIECE:]
