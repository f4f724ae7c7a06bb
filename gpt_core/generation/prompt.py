"""Boundary between a prompt and its continuation (token healing).

The tokens at the end of a text depend on the text after it: in `the cat` + `s` the last token may be `cat` or `cats`. A
prompt that is encoded on its own ends in a split that does not occur in the training data. Its last characters are
therefore not prefilled; instead, the first generated tokens are constrained to spell them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_core.tokenizers import Tokenizer


def split_prompt(tokenizer: Tokenizer, prompt: bytes) -> tuple[list[int], bytes]:
    """Return the ids that are the same whatever follows the prompt, and the remaining bytes at its end.

    A token is final when at least `Tokenizer.lookahead` characters are known from its start on.
    """
    ids: list[int] = tokenizer.encode(prompt).tolist()
    rest = b""
    while ids:
        longer = tokenizer.token_bytes(ids[-1]) + rest
        if characters(longer) >= tokenizer.lookahead:
            break
        ids.pop()
        rest = longer
    return ids, rest


def characters(data: bytes) -> int:
    """Return the number of UTF-8 characters that start in `data`."""
    return sum(byte & 0xC0 != 0x80 for byte in data)


def spelling(pieces: Sequence[bytes], rest: bytes, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask (V,) of the `allowed` ids whose bytes are a prefix of `rest`, or start with all of it."""
    fits = np.zeros_like(allowed)
    for token, piece in enumerate(pieces):
        fits[token] = bool(piece) and (rest.startswith(piece) or piece.startswith(rest))
    return fits & allowed
