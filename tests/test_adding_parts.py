"""A tokenizer and a metric are each added in one place; runs, checkpoints, resuming and the app use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt_core
from gpt_core import tokenizers
from gpt_core.errors import TokenizerError
from gpt_core.tokenizers.base import BaseTokenizer
from gpt_core.tokenizers.protocol import FIRST_BYTE
from gpt_core.tokenizers.registry import _registered
from gpt_core.training import metrics
from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics import Metric
from tests.core.training_samples import write_texts
from tests.tui.app_bench import running_app

TOKENS = Metric("tokens_seen", "tokens seen", "", "tokens", "short", StepCompleted, lambda step: step.tokens)


class ByteTokenizer(BaseTokenizer):
    """One token per byte."""

    name: ClassVar[str] = "bytes"

    @classmethod
    def train(cls, chunks: Iterable[bytes], vocab_size: int) -> Self:
        return cls((), vocab_size)

    @classmethod
    def from_body(cls, body: bytes, vocab_size: int) -> Self:
        return cls((), vocab_size)

    def encode(self, data: bytes) -> NDArray[np.int32]:
        return np.frombuffer(data, np.uint8).astype(np.int32) + FIRST_BYTE


@pytest.fixture
def registered() -> Iterator[None]:
    """Register the tokenizer and the metric for one test."""
    tokenizers.register("bytes", ByteTokenizer)
    metrics.register(TOKENS)
    yield
    del _registered["bytes"]
    metrics.unregister("tokens_seen")


def prepared(folder: Path, models: str, max_steps: int) -> gpt_core.TrainingRun:
    """Prepare a run with the registered tokenizer."""
    train, held_out = write_texts(folder)
    return gpt_core.train(
        train, eval_file=held_out, tokenizer="bytes", vocab_size=260, d_model=16, hidden_size=32, num_heads=2,
        seq_len=32, layers=1, batch_size=4, micro_batch_size=0, eval_every_steps=4, sample_tokens=4, threads=2,
        models_dir=folder / models, max_steps=max_steps,
    )  # fmt: skip


@pytest.mark.usefixtures("registered")
def test_a_registered_tokenizer_and_metric_train_and_resume_to_the_bit(tmp_path: Path) -> None:
    uninterrupted = prepared(tmp_path, "one", 8).result()
    assert uninterrupted.metrics["tokens_seen"] == 8 * 4 * 32
    first = prepared(tmp_path, "two", 3).result()
    assert first.checkpoint is not None
    resumed = gpt_core.train(resume=first.checkpoint, max_steps=8).result()
    assert resumed.model.parameters.flat.tobytes() == uninterrupted.model.parameters.flat.tobytes()
    assert resumed.metrics["tokens_seen"] == uninterrupted.metrics["tokens_seen"]
    model = gpt_core.load(first.checkpoint)
    assert model.tokenizer.encode(b"It").tolist() == [FIRST_BYTE + ord("I"), FIRST_BYTE + ord("t")]
    assert len(model.generate("It was", max_tokens=5, seed=1).encode()) >= 1
    assert 0 < model.evaluate(tmp_path / "eval.en").bits_per_byte < 9


def test_a_checkpoint_of_a_tokenizer_that_is_not_registered_is_refused_by_name(tmp_path: Path) -> None:
    tokenizers.register("bytes", ByteTokenizer)
    try:
        result = prepared(tmp_path, "one", 1).result()
    finally:
        del _registered["bytes"]
    assert result.checkpoint is not None
    with pytest.raises((TokenizerError, gpt_core.GptError), match="bytes"):
        gpt_core.load(result.checkpoint)


@pytest.mark.usefixtures("registered")
async def test_a_registered_metric_is_a_row_of_the_status_panel(tmp_path: Path) -> None:
    async with running_app(tmp_path, autostart=True, size=(120, 40)) as bench:
        await bench.until(lambda: "tokens seen" in bench.text())
