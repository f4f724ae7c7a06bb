"""A reply, token by token: the prompt is read once into the KV cache, then each new token is read on its own.

When the context is full, the last half of it is read again and becomes the new beginning: the reply goes on, the model
forgets what is older. A prompt longer than the context is cut from the left for the same reason.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core.generation.prompt import settled_prompt, spelling
from gpt_core.generation.sampler import Sampling, choose
from gpt_core.model.inference import Decoder
from gpt_core.model.parameters import Parameters
from gpt_core.tokenizers import Tokenizer


class CachedDecoder(Protocol):
    """What a generator needs of `gpt_core.model.inference.Decoder`."""

    @property
    def length(self) -> int:
        """Positions filled."""

    @property
    def capacity(self) -> int:
        """Positions there are (T)."""

    def reset(self) -> None:
        """Forget everything read."""

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Read tokens after those already read; the logits (V,) that follow the last one."""

    def decode(self, token: int) -> NDArray[np.float32]:
        """Read one token after those already read; the logits (V,) that follow it."""


class Figures(msgspec.Struct, frozen=True):
    """How fast a reply came, for showing.

    `tokens_s` is the time that all new tokens but the first took: that one came with the reading of the prompt.
    `ended_by` is "eos", "max_tokens", or "" while the reply runs or when it was stopped.
    """

    prompt_tokens: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    tokens_s: float = 0.0
    ended_by: str = ""

    @property
    def tokens_per_s(self) -> float:
        """New tokens a second; 0 before there are two."""
        return (self.tokens - 1) / self.tokens_s if self.tokens > 1 and self.tokens_s > 0 else 0.0


class Generator:
    """Generates from one set of weights. It is used by one thread at a time, and holds one reply at a time.

    `seed` fixes the whole sequence of replies (None: another one each time). The weights are read, never copied: give
    it weights that nobody changes meanwhile, such as a trainer's snapshot.
    """

    def __init__(
        self,
        parameters: Parameters,
        tokenizer: Tokenizer,
        *,
        seed: int | None = None,
        decoder: CachedDecoder | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.figures = Figures()
        self._decoder = Decoder(parameters) if decoder is None else decoder
        self._random = np.random.default_rng(seed)
        self._allowed = sampled_ids(tokenizer)

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The continuation of the prompt, as pieces of text whose concatenation is the reply.

        The model reads `<bos>` and the prompt up to its last few characters, which it then spells itself in tokens of
        its choice (`gpt_core.generation.prompt`); they are not part of the reply. Bytes that are not UTF-8 become
        U+FFFD, a character that is spread over several tokens comes whole with its last one. Closing the iterator stops
        the reply. Errors as in `choose`.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        ids, unread = settled_prompt(self.tokenizer, prompt_bytes(prompt))
        for token in self.tokens([self.tokenizer.BOS, *ids], sampling, unread):
            spelled = self.tokenizer.token_bytes(token)
            shown, unread = spelled[len(unread) :], unread[len(spelled) :]
            if text := decoder.decode(shown):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def tokens(self, prompt_ids: Sequence[int], sampling: Sampling, begin_with: bytes = b"") -> Iterator[int]:
        """The ids that follow the prompt, which must have at least one, until `<eos>` (not given) or `max_tokens`.

        The first ones are those that spell `begin_with`.
        """
        if not prompt_ids:
            raise ValueError("a prompt needs at least one token: begin it with <bos>")
        started = time.perf_counter()
        context = list(prompt_ids[-self._decoder.capacity :])
        self._decoder.reset()
        logits = self._decoder.prefill(context)
        self.figures = Figures(prompt_tokens=len(context), prompt_s=time.perf_counter() - started)
        for count in range(1, sampling.max_tokens + 1):
            started = time.perf_counter()  # the time the consumer takes between two tokens is not counted
            if count > 1:
                logits = self._read_last(context)
            allowed = spelling(self.tokenizer.vocabulary, begin_with, self._allowed) if begin_with else self._allowed
            token = choose(logits, sampling, self._random, allowed=allowed, seen=context)
            begin_with = begin_with[len(self.tokenizer.token_bytes(token)) :]
            if token == self.tokenizer.EOS:
                self.figures = msgspec.structs.replace(self.figures, ended_by="eos")
                return
            context.append(token)
            tokens_s = self.figures.tokens_s + (time.perf_counter() - started if count > 1 else 0.0)
            ended_by = "max_tokens" if count == sampling.max_tokens else ""
            self.figures = msgspec.structs.replace(self.figures, tokens=count, tokens_s=tokens_s, ended_by=ended_by)
            yield token

    def _read_last(self, context: list[int]) -> NDArray[np.float32]:
        """Read the context's last token; where there is no room, drop the older half of it and read the rest again."""
        if self._decoder.length < self._decoder.capacity:
            return self._decoder.decode(context[-1])
        del context[: -(self._decoder.capacity // 2)]
        self._decoder.reset()
        return self._decoder.prefill(context)


def prompt_bytes(prompt: str) -> bytes:
    """A prompt as bytes: undecodable bytes of a command line as they were, other lone surrogates as `?`."""
    try:
        return prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return prompt.encode("utf-8", "replace")


def sampled_ids(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Which ids (V,) a reply may hold: those that stand for bytes, and `<eos>`, which ends it."""
    allowed = tokenizer.token_lengths > 0
    allowed[[tokenizer.PAD, tokenizer.BOS, tokenizer.UNK]] = False
    allowed[tokenizer.EOS] = True
    return allowed
