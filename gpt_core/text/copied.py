"""Longest passage of a generated text that occurs verbatim in the training text: an exact search over its tokens.

The search is bit-parallel (Baeza-Yates and Gonnet 1992, "A New Approach to Text Searching", for all substrings of the
sequence together). A table maps each id to a bit mask: bit j is set if the id is at position j of the sequence. For
each position i of the text, the mask of matches of k tokens that begin there is

    B_1 = table[text[i]],   B_k+1 = (B_k << 1) & table[text[i + k]]

which is 0 after a few steps for most positions. Matches are compared by their bytes: one token can be longer than two.
Positions that cannot begin a longer match than the longest so far are skipped. Time is linear in the length of the
text, memory constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer

CHUNK = 1 << 17  # tokens of the text per read
MAX_SEQUENCE = 1024  # tokens of a sequence: bounds the table
MAX_SEARCHED = 1 << 25  # tokens of a text: about 100 MB
WORD = 64  # bits

Bits = NDArray[np.uint64]


class Match(NamedTuple):
    """Part of a sequence that occurs in a text: its first token, and its number of tokens and of bytes, 0 for none."""

    start: int
    length: int
    bytes: int


class CopiedPassage(NamedTuple):
    """Longest passage that occurs in the training text.

    Attributes:
        text: The passage, "" if no token of it does; None if it is unknown, because the tokenizer is lossy.
        searched: Tokens at the start of the training text that were searched; 0 for all.
    """

    text: str | None
    searched: int


def copied_passage(prompt: bytes, continuation: bytes, tokenizer: Tokenizer, text: TokenStream) -> CopiedPassage:
    """Return the longest passage of a continuation that occurs in a training text, in whole tokens.

    It is unknown with a lossy tokenizer: what was lost, such as white space, decides where tokens end.

    Args:
        prompt: Text before the continuation; no passage begins in it.
        continuation: Text of which the first `MAX_SEQUENCE` tokens are searched for.
        tokenizer: Tokenizer of both texts.
        text: The training text, of which the first `MAX_SEARCHED` tokens are searched.

    Raises:
        CorpusError: The training text cannot be read.
    """
    if not tokenizer.is_lossless:
        return CopiedPassage(None, 0)
    ids = tokenizer.encode(prompt + continuation)
    sizes = tokenizer.token_lengths[ids].astype(np.int64)
    first = int(np.searchsorted(np.cumsum(sizes) - sizes, len(prompt)))
    found = longest_match(ids[first : first + MAX_SEQUENCE], text)
    passage = tokenizer.decode(ids[first + found.start : first + found.start + found.length].tolist())
    return CopiedPassage(passage.decode("utf-8", "replace"), MAX_SEARCHED if len(text) > MAX_SEARCHED else 0)


def longest_match(ids: NDArray[np.int32], text: TokenStream) -> Match:
    """Return the match of a sequence of ids in a text that has the most bytes; of equal ones, the first found.

    Raises:
        CorpusError: The text cannot be read.
    """
    best = Match(0, 0, 0)
    if not len(ids):
        return best
    table = bits_of_places(ids, len(text.token_lengths))
    end = min(len(text), MAX_SEARCHED)
    for start in range(0, end, CHUNK):
        chunk = text.read(start, min(CHUNK + len(ids) - 1, end - start))
        best = longest_in_chunk(table, chunk, text.token_lengths[chunk], best)
    return best


def bits_of_places(ids: NDArray[np.int32], vocab_size: int) -> Bits:
    """Return the table (V, W) of the positions of each id in a sequence, as bit masks of 64 positions per word."""
    table = np.zeros((vocab_size, -(-len(ids) // WORD)), np.uint64)
    for place, token in enumerate(ids):
        table[token, place // WORD] |= np.uint64(1 << place % WORD)
    return table


def longest_in_chunk(table: Bits, chunk: NDArray[np.int32], sizes: NDArray[np.uint8], best: Match) -> Match:
    """Return the longest match that begins in the first `CHUNK` tokens of a chunk, or `best` if none is longer.

    Args:
        table: Places of each id in the sequence.
        chunk: Ids of a part of the text (T).
        sizes: Bytes of each of them (T).
        best: Longest match so far.
    """
    is_member: NDArray[np.bool_] = np.any(table != 0, axis=1)
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    starts = possible_starts(is_member[chunk], offsets, best.bytes)
    bits = table[chunk[starts]]
    length = 1
    while len(starts):
        matched = offsets[starts + length] - offsets[starts]
        longest = int(np.argmax(matched))
        if matched[longest] > best.bytes:
            word = int(np.flatnonzero(bits[longest])[0])
            last = word * WORD + (int(bits[longest, word]) & -int(bits[longest, word])).bit_length() - 1
            best = Match(last - length + 1, length, int(matched[longest]))
        inside = starts + length < len(chunk)
        starts = starts[inside]
        bits = shifted(bits[inside]) & table[chunk[starts + length]]
        keep = bits.any(axis=1)
        starts, bits = starts[keep], bits[keep]
        length += 1
    return best


def possible_starts(member: NDArray[np.bool_], offsets: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the positions, of the first `CHUNK`, that begin more than `size` bytes of tokens of the sequence.

    Args:
        member: For each token of a chunk, True if it occurs in the sequence (T).
        offsets: Bytes before each token, and those of all (T + 1).
        size: Bytes of the longest match so far.
    """
    ends = np.where(member, offsets[-1], offsets[:-1])
    ends = np.minimum.accumulate(ends[::-1])[::-1]  # where the next token that is not of the sequence begins
    return np.flatnonzero((ends - offsets[:-1])[:CHUNK] > size)


def shifted(bits: Bits) -> Bits:
    """Return bit masks of W words, lowest word first, shifted left by one bit."""
    result = bits << np.uint64(1)
    result[:, 1:] |= bits[:, :-1] >> np.uint64(WORD - 1)
    return result
