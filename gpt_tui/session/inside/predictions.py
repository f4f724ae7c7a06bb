"""Predictions of every token of a text, for `gpt-tui inspect` and for the Inside tab."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core import interpret
from gpt_tui.session.inside.subject import Subject


class Alternative(NamedTuple):
    """A token that a model expects with a probability. `name` is its printable text, `data` its bytes."""

    id: int
    name: str
    data: bytes
    probability: float


@dataclass(frozen=True)
class TokenPredictions:
    """What a model expects in the place of each of T tokens, from those before it; of the first nothing.

    Attributes:
        ids: The tokens.
        names: Their printable text.
        data: Their bytes.
        bits: Surprise of the tokens after the first in bits, -log2 p (T - 1,).
        ranks: Their ranks: 1 for the most probable token (T - 1,).
        entropy: Entropy in bits of the prediction after each token (T,).
        expected: The most probable tokens after each token, the most probable first.
        vocab_size: Number of tokens that the model chooses from.
    """

    ids: Sequence[int]
    names: Sequence[str]
    data: Sequence[bytes]
    bits: NDArray[np.float32]
    ranks: NDArray[np.int32]
    entropy: NDArray[np.float32]
    expected: Sequence[Sequence[Alternative]]
    vocab_size: int

    def alternatives(self, token: int) -> Sequence[Alternative]:
        """Return the most probable tokens in the place of a token; T is the place after the text."""
        return self.expected[token - 1] if token > 0 else ()

    def text_with(self, token: int, choice: int) -> str:
        """Return the text up to a token, with one of the alternatives in its place; "" if that has no text.

        An incomplete character at the end stays as escaped bytes, which a prompt may hold.
        """
        added = self.alternatives(token)[choice].data
        return (b"".join(self.data[:token]) + added).decode("utf-8", "surrogateescape") if added else ""


def token_predictions(subject: Subject, count: int) -> TokenPredictions:
    """Return the predictions of a text, with the `count` most probable tokens at each position."""
    found = interpret.next_tokens(subject.gpt, subject.batch, count)
    has_next = len(subject.ids) > 1
    losses = interpret.token_losses(subject.gpt, subject.batch)[0] if has_next else np.empty(0, np.float32)
    tokenizer = subject.tokenizer
    return TokenPredictions(
        subject.ids.tolist(), subject.texts(), [tokenizer.token_bytes(token) for token in subject.ids.tolist()],
        losses / math.log(2), found.ranks[0], found.entropy[0] / math.log(2),
        [alternatives(subject, ids, p) for ids, p in zip(found.ids[0], found.probabilities[0], strict=True)],
        subject.gpt.shape.vocab_size,
    )  # fmt: skip


def alternatives(subject: Subject, ids: Iterable[int], probabilities: Iterable[float]) -> list[Alternative]:
    """Return tokens with their probabilities."""
    return [
        Alternative(int(token), subject.text(token), subject.tokenizer.token_bytes(int(token)), float(p))
        for token, p in zip(ids, probabilities, strict=True)
    ]
