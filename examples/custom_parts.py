"""Register a tokenizer, an optimizer and a metric of your own, and train with them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

import gpt_core
from gpt_core import tokenizers
from gpt_core.model.parameters import Parameters
from gpt_core.optim import Optimizer
from gpt_core.registry import OPTIMIZERS
from gpt_core.tokenizers.base import BaseTokenizer
from gpt_core.tokenizers.protocol import FIRST_BYTE, check_vocab_size
from gpt_core.training import metrics
from gpt_core.training.events import StepCompleted

TINY: dict[str, Any] = {"d_model": 32, "hidden_size": 64, "num_heads": 2, "seq_len": 64, "layers": 2}


class ByteTokenizer(BaseTokenizer):
    """Tokenizer with one token per byte."""

    name: ClassVar[str] = "bytes"

    @classmethod
    def train(cls, chunks: Iterable[bytes], vocab_size: int) -> Self:
        """Return the tokenizer; there is nothing to train."""
        check_vocab_size(vocab_size)
        return cls((), vocab_size)

    @classmethod
    def from_body(cls, body: bytes, vocab_size: int) -> Self:
        """Return the tokenizer stored in a checkpoint."""
        return cls((), vocab_size)

    def encode(self, data: bytes) -> NDArray[np.int32]:
        """Return the ids of `data`: byte b has the id FIRST_BYTE + b."""
        return np.frombuffer(data, np.uint8).astype(np.int32) + FIRST_BYTE


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964)."""

    state_names: ClassVar[tuple[str, ...]] = ("momentum",)

    def update(self, gradients: Parameters, step: int, lr_share: float, scale: float) -> None:
        """With g = scale * gradient: m = 0.9 m + g,  p = p - lr m."""
        for segment in self.segments:  # parameters that share a learning rate
            p, m = self.parameters.values_of(segment), self.state["momentum"].values_of(segment)
            m *= 0.9
            m += np.float32(scale) * gradients.values_of(segment)
            p -= np.float32(self.learning_rates[segment.lr_group] * lr_share) * m


def main() -> None:
    """Train with one token per byte and SGD, and print the number of tokens seen, as a metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", help="training text (default: the shipped one)")
    parser.add_argument("--models-dir", default="my-bytes", help="folder for checkpoints")
    parser.add_argument("--max-steps", type=int, default=300)
    parser.add_argument("--tiny", action="store_true", help="a very small model")
    options = parser.parse_args()

    tokenizers.register("bytes", ByteTokenizer)
    OPTIMIZERS.register("sgd", SGD)
    metrics.register(
        metrics.Metric("tokens", "tokens seen", "", "tokens", "short", StepCompleted, lambda step: step.tokens)
    )
    run = gpt_core.train(
        options.text, tokenizer="bytes", vocab_size=260, optimizer="sgd", learning_rate=0.3,
        models_dir=options.models_dir, max_steps=options.max_steps, **(TINY if options.tiny else {}),
    )  # fmt: skip
    result = run.result()
    print(f"{result.metrics['tokens']:,.0f} tokens seen, train loss {result.train_loss:.3f}")
    prompt = result.model.settings.sample_prompt  # the first words of the held-out text
    print(prompt + result.model.generate(prompt, max_tokens=80, seed=1))


if __name__ == "__main__":
    main()
