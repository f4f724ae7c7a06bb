"""Scores of the tokens of a text: how surprising each is to a model, and what the model expected in its place.

A text is scored by a forward pass over its tokens. That works alike for replies and samples, for weights of fewer bits,
and for any model, also one that did not write the text. Slow: for worker threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpt_core.errors import ConfigError
from gpt_core.generation.generator import prompt_bytes, with_bos
from gpt_core.interpret import text_predictions
from gpt_core.model.bundle import gpt_of
from gpt_core.model.parameters import Parameters
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.tokenizers import Tokenizer
from gpt_tui.shared.sanitize import printable

ALTERNATIVES = 8
MAX_TOKENS = 4096  # of the end of a text: bounds time and memory


class Alternative(NamedTuple):
    """A token that the model may expect: its name, its probability, and its bytes, none for a special one."""

    name: str
    probability: float
    data: bytes


class ScoredToken(NamedTuple):
    """A token of a text.

    Attributes:
        text: Its text as shown in the text.
        name: Its name, with spaces and unprintable characters made visible.
        start: Offset of its first byte in the text.
        in_prompt: It is of the prompt.
        probability: Its probability after the tokens before it; None for a first token, which nothing precedes.
        rank: Rank of that probability, 1 for the most probable token; 0 for a first token.
        alternatives: The most probable tokens in its place.
    """

    text: str
    name: str
    start: int
    in_prompt: bool = False
    probability: float | None = None
    rank: int = 0
    alternatives: tuple[Alternative, ...] = ()

    @property
    def bits(self) -> float | None:
        """Surprise in bits, -log2 p; None without a probability."""
        if self.probability is None or math.isnan(self.probability):
            return None
        return -math.log2(max(self.probability, float(np.finfo(np.float32).tiny)))


class ScoredText(NamedTuple):
    """Tokens of a text with their scores.

    Attributes:
        data: Bytes of the text.
        tokens: Its tokens, or those of its end.
        model: Name of the model.
        vocabulary: Number of tokens of its vocabulary.
        skipped: Tokens at the start of a long text that are left out.
    """

    data: bytes
    tokens: tuple[ScoredToken, ...]
    model: str
    vocabulary: int
    skipped: int = 0

    @property
    def first_of_reply(self) -> int:
        """Index of the first token after the prompt; of the last token if there is none."""
        tokens = self.tokens
        return next((number for number, token in enumerate(tokens) if not token.in_prompt), max(0, len(tokens) - 1))

    def continued(self, token: int, alternative: int) -> str:
        """Return the text up to a token, with an alternative in its place; "" if that has no text.

        An incomplete character at the end stays as escaped bytes, which a prompt may hold.
        """
        found = self.tokens[token]
        added = found.alternatives[alternative].data
        return (self.data[: found.start] + added).decode("utf-8", "surrogateescape") if added else ""


def score(weights: Parameters | StoredWeights, tokenizer: Tokenizer, name: str, prompt: str, text: str) -> ScoredText:
    """Return the scores of a prompt and the text that continues it.

    Args:
        weights: Weights of the model.
        tokenizer: Its tokenizer.
        name: Its name.
        prompt: Beginning of the text.
        text: Continuation of the prompt.

    Raises:
        ConfigError: There are no tokens to score.
    """
    before = prompt_bytes(prompt)
    data = before + prompt_bytes(text)
    ids = with_bos(tokenizer, tokenizer.encode(data).tolist())
    skipped = max(0, len(ids) - MAX_TOKENS)
    ids, offset = ids[skipped:], len(tokenizer.decode(ids[:skipped]))
    if len(ids) < 2 or weights.shape.seq_len < 2:
        raise ConfigError("nothing to score: got fewer than two tokens, or a model with a context of one")
    found = text_predictions(gpt_of(weights), np.array(ids, np.int32), ALTERNATIVES)
    tokens = []
    for number, token in enumerate(ids):
        size = len(tokenizer.token_bytes(token))
        scored = ScoredToken(shown(tokenizer, token), tokenizer.describe(token), offset, offset + size <= len(before))
        offset += size
        if number:
            likely = zip(found.ids[number - 1], found.probabilities[number - 1], strict=True)
            alternatives = [Alternative(tokenizer.describe(int(id)), float(p), tokenizer.token_bytes(int(id)))
                            for id, p in likely]  # fmt: skip
            scored = scored._replace(
                probability=float(found.target_probabilities[number - 1]), rank=int(found.ranks[number - 1]),
                alternatives=tuple(alternatives),
            )  # fmt: skip
        if size:
            tokens.append(scored)
    return ScoredText(data, tuple(tokens), name, len(tokenizer.vocabulary), skipped)


def shown(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as printable text; one that is part of a character is shown by its name."""
    try:
        text = printable(tokenizer.token_bytes(token).decode())
    except UnicodeDecodeError:
        text = ""
    return text or tokenizer.describe(token)
