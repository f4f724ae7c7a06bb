"""Where a prompt ends and generation begins, when the end of the prompt may lie inside a token.

The encoder takes the longest piece that fits, so how the last characters of a text are cut depends on what follows: in
`the cat` + `s` the end may be the piece `cat` or `cats`. A prompt that is simply encoded ends in a cut that training
never showed in that place. So its last characters are not read but given back to the model, which must begin its reply
with tokens that spell them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_core.tokenizers import Tokenizer


def settled_prompt(tokenizer: Tokenizer, prompt: bytes) -> tuple[list[int], bytes]:
    """The ids that stay the same whatever follows the prompt, and the bytes at its end that are left over.

    An id is settled when the encoder saw as many characters from its place on as its choice can depend on
    (`Tokenizer.lookahead`).
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
    """Characters of UTF-8 that begin in `data`."""
    return sum(byte & 0xC0 != 0x80 for byte in data)


def spelling(pieces: Sequence[bytes], rest: bytes, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the `allowed` ids (V,) go on with spelling `rest`: a beginning of it, or all of it and more."""
    fits = np.zeros_like(allowed)
    for token, piece in enumerate(pieces):
        fits[token] = bool(piece) and (rest.startswith(piece) or piece.startswith(rest))
    return fits & allowed
