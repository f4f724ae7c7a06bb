"""Text generation, token by token: prefill of the KV cache with the prompt, then one decode step per new token.

When the context is full, the last half of it becomes the new context and is prefilled again: generation continues
without the older tokens. Likewise, only the end of a prompt that is longer than the context is used.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core.generation.prompt import spelling, split_prompt
from gpt_core.generation.sampler import Sampling, choose
from gpt_core.model.inference import Decoder
from gpt_core.model.parameters import Parameters
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.tokenizers import Tokenizer


class CachedDecoder(Protocol):
    """The part of `gpt_core.model.inference.Decoder` that a generator uses."""

    @property
    def length(self) -> int:
        """Number of cached positions."""

    @property
    def capacity(self) -> int:
        """Maximum number of positions (T)."""

    def reset(self) -> None:
        """Empty the cache."""

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens to the cache and return the logits (V,) that follow the last one."""

    def decode(self, token: int) -> NDArray[np.float32]:
        """Append one token to the cache and return the logits (V,) that follow it."""


class Figures(msgspec.Struct, frozen=True):
    """Speed and end of a reply.

    Attributes:
        prompt_tokens: Tokens of the prompt that the model has read.
        skipped_tokens: Tokens at the start of the prompt that did not fit into the context.
        prompt_s: Time of the prompt's tokens, which also gives the logits of the first new token.
        tokens: New tokens; a token that only spells the end of the prompt belongs to the prompt.
        tokens_s: Time of all new tokens except the first.
        ended_by: "eos" or "max_tokens"; "" during generation and if the reply was stopped.
    """

    prompt_tokens: int = 0
    skipped_tokens: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    tokens_s: float = 0.0
    ended_by: str = ""

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second; 0 before there are two."""
        return (self.tokens - 1) / self.tokens_s if self.tokens > 1 and self.tokens_s > 0 else 0.0


class Generator:
    """Generates replies with one set of weights. Use it from one thread, for one reply at a time.

    The weights are not copied and must not change during generation: use `Trainer.weights_snapshot` for a model in
    training.
    """

    def __init__(
        self,
        weights: Parameters | StoredWeights,
        tokenizer: Tokenizer,
        *,
        seed: int | None = None,
        decoder: CachedDecoder | None = None,
    ) -> None:
        """Create a generator.

        Args:
            weights: Weights of the model, float32 or stored in fewer bits.
            tokenizer: Tokenizer of the model.
            seed: Random seed of the sequence of replies; None for a different sequence each time.
            decoder: Model with a KV cache; None for a new `Decoder`.
        """
        self.tokenizer = tokenizer
        self.figures = Figures()
        self._decoder = Decoder(weights) if decoder is None else decoder
        self._random = np.random.default_rng(seed)
        self._allowed = sampled_ids(tokenizer)

    def generate(
        self,
        prompt: str,
        sampling: Sampling,
        *,
        keep_bytes: bool = False,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[str]:
        """Yield the continuation of a prompt in pieces of text.

        The model reads `<bos>`, if the tokenizer adds it or the prompt is empty, and the prompt without its last few
        characters, which the first generated tokens must spell (`gpt_core.generation.prompt`); they are not part of the
        reply. A character that is split over several tokens is yielded with the last of them.

        Args:
            prompt: The text to continue. Escaped bytes (`prompt_bytes`) are read as those bytes.
            sampling: How tokens are chosen.
            keep_bytes: Yield bytes that are not valid UTF-8 escaped, so that prompt and reply are a prompt again.
                Otherwise they become U+FFFD, except for an incomplete character where `max_tokens` or a stop ends the
                reply.
            is_stopped: Called after each token; True ends the reply. Closing the iterator ends it, too, but loses the
                bytes of an incomplete character.

        Raises:
            LogitsError: As in `choose`.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape" if keep_bytes else "replace")
        ids, unsettled = split_prompt(self.tokenizer, prompt_bytes(prompt))
        for token in self.tokens(with_bos(self.tokenizer, ids), sampling, unsettled):
            spelled = self.tokenizer.token_bytes(token)
            shown, unsettled = spelled[len(unsettled) :], unsettled[len(spelled) :]
            if text := decoder.decode(shown):
                yield text
            if is_stopped():
                break
        if (keep_bytes or self.figures.ended_by == "eos") and (text := decoder.decode(b"", final=True)):
            yield text

    def tokens(self, prompt_ids: Sequence[int], sampling: Sampling, begin_with: bytes = b"") -> Iterator[int]:
        """Yield the ids that follow the prompt, until `<eos>`, which is not yielded, or `max_tokens` new ones.

        Ids that only spell `begin_with` are yielded, too, but count as tokens of the prompt.

        Args:
            prompt_ids: Ids of the prompt, at least one.
            sampling: How tokens are chosen.
            begin_with: Bytes that the first tokens must spell.

        Raises:
            ValueError: The prompt has no id.
            LogitsError: As in `choose`.
        """
        if not prompt_ids:
            raise ValueError("prompt_ids: got no ids, expected at least <bos>")
        started = time.perf_counter()
        room = self._decoder.capacity - len(begin_with)  # a token that spells the end has at least one byte
        context = list(prompt_ids[-max(1, room) :])
        self._decoder.reset()
        logits = self._decoder.prefill(context)
        self.figures = Figures(
            prompt_tokens=len(context), skipped_tokens=len(prompt_ids) - len(context),
            prompt_s=time.perf_counter() - started,
        )  # fmt: skip
        is_decoded = True  # the logits follow the last token of the context
        while self.figures.tokens < sampling.max_tokens:
            started = time.perf_counter()  # excludes the time that the consumer spends between two tokens
            if not is_decoded:
                logits = self._decode_last(context)
            allowed = spelling(self.tokenizer.vocabulary, begin_with, self._allowed) if begin_with else self._allowed
            token = choose(logits, sampling, self._random, allowed=allowed, seen=context)
            if token == self.tokenizer.EOS:
                self.figures = msgspec.structs.replace(self.figures, ended_by="eos")
                return
            context.append(token)
            is_decoded = False
            spelled = len(self.tokenizer.token_bytes(token))
            is_new = not begin_with or spelled > len(begin_with)
            begin_with = begin_with[spelled:]
            self._count(time.perf_counter() - started, is_new=is_new, max_tokens=sampling.max_tokens)
            yield token

    def _count(self, elapsed_s: float, *, is_new: bool, max_tokens: int) -> None:
        """Count a token, as one of the prompt unless it adds text; the first new one takes part of `prompt_s`."""
        figures = self.figures
        tokens = figures.tokens + is_new
        in_prompt = tokens <= 1
        self.figures = msgspec.structs.replace(
            figures,
            prompt_tokens=figures.prompt_tokens + (not is_new),
            prompt_s=figures.prompt_s + (elapsed_s if in_prompt else 0.0),
            tokens=tokens,
            tokens_s=figures.tokens_s + (0.0 if in_prompt else elapsed_s),
            ended_by="max_tokens" if tokens == max_tokens else "",
        )

    def _decode_last(self, context: list[int]) -> NDArray[np.float32]:
        """Decode the last token of the context; if the cache is full, drop the older half and prefill the rest."""
        if self._decoder.length < self._decoder.capacity:
            return self._decoder.decode(context[-1])
        del context[: -(self._decoder.capacity // 2)]
        self._decoder.reset()
        return self._decoder.prefill(context)


def prompt_bytes(prompt: str) -> bytes:
    """Return a prompt as bytes: undecodable bytes of a command line unchanged, other lone surrogates as `?`."""
    try:
        return prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return prompt.encode("utf-8", "replace")


def readable(text: str) -> str:
    """Return a text with escaped bytes (`prompt_bytes`) as U+FFFD, and without an incomplete character at its end."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(prompt_bytes(text))


def with_bos(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Return the ids that a model reads: those of a text, after `<bos>` if the tokenizer adds it or there are none."""
    return [tokenizer.BOS, *ids] if tokenizer.adds_bos or not ids else list(ids)


def sampled_ids(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Return a mask (V,) of the ids that may be generated: those with bytes, and `<eos>`."""
    allowed = tokenizer.token_lengths > 0
    allowed[[tokenizer.PAD, tokenizer.BOS, tokenizer.UNK]] = False
    allowed[tokenizer.EOS] = True
    return allowed
