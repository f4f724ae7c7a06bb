"""Predictions of every token of a text: for `gpt-tui inspect`, the Inside tab and the screen of surprise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core import interpret
from gpt_core.errors import ConfigError
from gpt_core.generation.generator import prompt_bytes, with_bos
from gpt_core.model.gpt import GPT
from gpt_core.progress import Progress, ignore_progress
from gpt_core.tokenizers import Tokenizer
from gpt_tui.session.inside.subject import Subject, shown_text

ALTERNATIVES = 8
MAX_TOKENS = 4096  # of the end of a text: bounds time and memory
MIN_PROBABILITY = float(np.finfo(np.float32).tiny)


class Alternative(NamedTuple):
    """A token that a model expects with a probability. `name` is its printable text, `data` its bytes."""

    id: int
    name: str
    data: bytes
    probability: float


@dataclass(frozen=True)
class TokenPredictions:
    """Predictions of each of T tokens from those before it; the first token has none.

    Attributes:
        ids: The tokens.
        names: Their printable text, with visible spaces and line breaks.
        texts: The same for reading: spaces and line breaks as such.
        data: Their bytes.
        bits: Surprise of the tokens after the first in bits, -log2 p (T - 1,).
        ranks: Their ranks: 1 for the most probable token (T - 1,).
        entropy: Entropy in bits of the prediction after each token (T,).
        expected: The most probable tokens after each token, the most probable first.
        vocab_size: Number of tokens that the model chooses from.
        prompt: Number of the first tokens that are of the prompt.
        skipped: Tokens of a long text before the first one.
        skipped_data: Their bytes.
        end_note: Note if a space at the end would change the last token, else "".
    """

    ids: Sequence[int]
    names: Sequence[str]
    texts: tuple[str, ...]
    data: Sequence[bytes]
    bits: NDArray[np.float32]
    ranks: NDArray[np.int32]
    entropy: NDArray[np.float32]
    expected: Sequence[Sequence[Alternative]]
    vocab_size: int
    prompt: int = 0
    skipped: int = 0
    skipped_data: bytes = b""
    end_note: str = ""

    @property
    def first_of_reply(self) -> int:
        """Index of the first token after the prompt; of the last token if there is none."""
        return min(self.prompt, len(self.ids) - 1)

    def alternatives(self, token: int) -> Sequence[Alternative]:
        """Return the most probable tokens in the place of a token; T is the place after the text."""
        return self.expected[token - 1] if token > 0 else ()

    def text_with(self, token: int, choice: int) -> str:
        """Return the text up to a token, with one of the alternatives in its place; "" if that has no text.

        It begins with the document of the token, because a prompt holds no end of a document. An incomplete character
        at the end stays as escaped bytes, which a prompt may hold.
        """
        added = self.alternatives(token)[choice].data
        before = (self.skipped_data, *self.data[:token])
        begin = max((t for t, data in enumerate(before) if not data), default=0)  # of the last special token
        return b"".join([*before[begin:], added]).decode("utf-8", "surrogateescape") if added else ""


def token_predictions(subject: Subject, count: int = ALTERNATIVES) -> TokenPredictions:
    """Return the predictions of a text, with the `count` most probable tokens at each position."""
    found = predictions_of(subject.gpt, subject.tokenizer, subject.ids, count, subject.progress)
    return replace(found, end_note=subject.end_note())


def reply_predictions(
    gpt: GPT, tokenizer: Tokenizer, prompt: str, reply: str, progress: Progress = ignore_progress
) -> TokenPredictions:  # fmt: skip
    """Return the predictions of a prompt and the text that continues it, or of the end of both.

    That works alike for replies and samples, and for any model, also one that did not write the text.

    Raises:
        ConfigError: There are no two tokens, or the context holds no two; or the tokenizer is lossy, so that the text
            does not determine the tokens that were generated.
    """
    if not tokenizer.is_lossless:
        raise ConfigError(
            f"no surprise of a generated text: its tokens are unknown with the lossy tokenizer {tokenizer.name}; "
            "train with a lossless one, such as pieces"
        )
    before = prompt_bytes(prompt)
    ids = with_bos(tokenizer, tokenizer.encode(before + prompt_bytes(reply)).tolist())
    if len(ids) < 2 or gpt.shape.seq_len < 2:
        raise ConfigError("nothing to score: got fewer than two tokens, or a model with a context of one")
    skipped = max(0, len(ids) - MAX_TOKENS)
    skipped_data = tokenizer.decode(ids[:skipped])
    found = predictions_of(gpt, tokenizer, np.array(ids[skipped:], np.int32), ALTERNATIVES, progress)
    ends = len(skipped_data) + np.cumsum([len(data) for data in found.data])
    in_prompt = int((ends <= len(before)).sum())
    return replace(found, prompt=in_prompt, skipped=skipped, skipped_data=skipped_data)


def predictions_of(
    gpt: GPT, tokenizer: Tokenizer, ids: NDArray[np.int32], count: int, progress: Progress
) -> TokenPredictions:  # fmt: skip
    """Return the predictions of tokens: one forward pass per window."""
    found = interpret.text_predictions(gpt, ids, count, progress)
    tokens = ids.tolist()
    return TokenPredictions(
        tokens, [tokenizer.describe(token) for token in tokens],
        tuple(shown_text(tokenizer, token) for token in tokens), [tokenizer.token_bytes(token) for token in tokens],
        -np.log2(np.maximum(found.target_probabilities[0], MIN_PROBABILITY)), found.ranks[0],
        found.entropy[0] / np.float32(np.log(2)),
        [alternatives(tokenizer, *each) for each in zip(found.ids[0], found.probabilities[0], strict=True)],
        gpt.shape.vocab_size,
    )  # fmt: skip


def alternatives(tokenizer: Tokenizer, ids: Iterable[int], probabilities: Iterable[float]) -> list[Alternative]:
    """Return tokens with their probabilities."""
    return [
        Alternative(int(token), tokenizer.describe(int(token)), tokenizer.token_bytes(int(token)), float(p))
        for token, p in zip(ids, probabilities, strict=True)
    ]
