"""Blocks of text: how parts of documents are grouped for encoding and for training, in bounded memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20
Block = tuple[bytes, NDArray[np.int64]]  # text, and the offsets in it at which documents or slices end, ascending


def join_parts(parts: Iterable[tuple[bytes, bool]]) -> Iterator[Block]:
    """Join parts of documents to blocks of about 1 MiB.

    Args:
        parts: Pairs of text and whether the document ends with it.

    Yields:
        Pairs of text and the offsets in it at which documents end, ascending.
    """
    block = bytearray()
    ends = array("q")
    for text, is_last in parts:
        block += text
        if is_last:
            ends.append(len(block))
        if len(block) >= BLOCK_BYTES:
            yield bytes(block), np.array(ends, dtype=np.int64)
            block, ends = bytearray(), array("q")
    if block or ends:
        yield bytes(block), np.array(ends, dtype=np.int64)
