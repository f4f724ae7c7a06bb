"""Samples: text that continues a fixed prompt with the same random seed each time, so that only the weights differ."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gpt_core.config.settings import Settings
from gpt_core.errors import LogitsError
from gpt_core.generation.generator import Generator, prompt_bytes, readable
from gpt_core.generation.sampler import Sampling
from gpt_core.model.inference import Decoder
from gpt_core.model.parameters import Parameters
from gpt_core.text.copied import copied_passage
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.events import SampleWritten


class SampleWriter:
    """Generates samples from the weights of a run, which must not change meanwhile.

    The KV cache is allocated for the first sample.
    """

    def __init__(
        self, parameters: Parameters, tokenizer: Tokenizer, settings: Settings, train_text: TokenStream
    ) -> None:
        self._parameters = parameters
        self._tokenizer = tokenizer
        self._train_text = train_text
        self._prompt, self._seed = settings.sample_prompt, settings.seed
        self._sampling = msgspec.structs.replace(Sampling.from_settings(settings), max_tokens=settings.sample_tokens)
        self._decoder: Decoder | None = None

    def write(self, step: int, is_stopping: Callable[[], bool]) -> SampleWritten | None:
        """Return the sample after `step` steps.

        None if samples are off, a stop is requested before its end, or no token can be chosen from the logits: the run
        diverges, which its losses report.
        """
        if not self._sampling.max_tokens:
            return None
        self._decoder = self._decoder or Decoder(self._parameters)
        generator = Generator(self._parameters, self._tokenizer, seed=self._seed, decoder=self._decoder)
        pieces = []
        try:
            for piece in generator.generate(self._prompt, self._sampling, keep_bytes=True):
                if is_stopping():
                    return None
                pieces.append(piece)
        except LogitsError:
            return None
        exact = "".join(pieces)
        text, data = readable(exact), prompt_bytes(exact)
        found = copied_passage(prompt_bytes(self._prompt), data, self._tokenizer, self._train_text)
        return SampleWritten(
            step, self._prompt, text, found.text, found.searched, b"" if data == text.encode() else data
        )
