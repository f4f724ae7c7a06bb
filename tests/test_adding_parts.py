"""An optimizer, a tokenizer and a metric are each added in one place; runs, checkpoints and the app use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt_core
from gpt_core import tokenizers
from gpt_core.errors import RunExistsError
from gpt_core.model.parameters import Parameters
from gpt_core.optim import Optimizer
from gpt_core.registry import OPTIMIZERS
from gpt_core.tokenizers.base import BaseTokenizer
from gpt_core.tokenizers.protocol import FIRST_BYTE
from gpt_core.tokenizers.registry import TOKENIZERS
from gpt_core.training import metrics
from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics import Metric
from gpt_tui.headless.event_text import figures
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_finder import RunInfo, RunStatus
from gpt_tui.session.run_preview import existing_run
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.checkpoints.files import FolderScanner
from gpt_tui.tabs.checkpoints.presenter import status_cell, verification_of
from gpt_tui.tabs.runs.presenter import log_rows
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


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = 0.9 v + g; p = p - lr v."""

    state_names = ("momentum",)

    def update(self, gradients: Parameters, step: int, lr_share: float, scale: float) -> None:
        velocity = self.state["momentum"].flat
        velocity[:] = 0.9 * velocity + scale * gradients.flat
        self.parameters.flat[:] -= self.learning_rates["mlp"] * lr_share * velocity


@pytest.fixture
def registered() -> Iterator[None]:
    """Register the optimizer, the tokenizer and the metric for one test."""
    OPTIMIZERS.register("sgd", SGD)
    tokenizers.register("bytes", ByteTokenizer)
    metrics.register(TOKENS)
    yield
    OPTIMIZERS.unregister("sgd")
    TOKENIZERS.unregister("bytes")
    metrics.unregister("tokens_seen")


def prepared(folder: Path, models: str, max_steps: int) -> gpt_core.TrainingRun:
    """Prepare a run with the registered optimizer and tokenizer."""
    train, held_out = write_texts(folder)
    return gpt_core.train(
        train, eval_file=held_out, tokenizer="bytes", optimizer="sgd", vocab_size=260, d_model=16, hidden_size=32,
        num_heads=2, seq_len=32, layers=1, batch_size=4, micro_batch_size=0, eval_every_steps=4, sample_tokens=4,
        threads=2, models_dir=folder / models, max_steps=max_steps,
    )  # fmt: skip


@pytest.mark.usefixtures("registered")
def test_registered_parts_train_and_resume_to_the_bit(tmp_path: Path) -> None:
    uninterrupted = prepared(tmp_path, "one", 8).result()
    assert uninterrupted.metrics["tokens_seen"] == 8 * 4 * 32
    first = prepared(tmp_path, "two", 3).result()
    assert first.checkpoint is not None
    resumed = gpt_core.train(resume=first.checkpoint, max_steps=8).result()
    assert resumed.model.parameters.flat.tobytes() == uninterrupted.model.parameters.flat.tobytes()
    assert resumed.metrics["tokens_seen"] == uninterrupted.metrics["tokens_seen"]
    assert resumed.model.settings.optimizer == "sgd"
    model = gpt_core.load(first.checkpoint)
    assert model.tokenizer.encode(b"It").tolist() == [FIRST_BYTE + ord("I"), FIRST_BYTE + ord("t")]
    assert len(model.generate("It was", max_tokens=5, seed=1).encode()) >= 1
    assert 0 < model.evaluate(tmp_path / "eval.en").bits_per_byte < 9


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("part", "name"), [("tokenizer", "bytes"), ("optimizer", "sgd")])
def test_a_checkpoint_of_a_part_that_is_not_registered_is_refused_by_name(
    part: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = prepared(tmp_path, "one", 1).result().checkpoint
    assert checkpoint is not None
    others = (TOKENIZERS if part == "tokenizer" else OPTIMIZERS)._implementations
    monkeypatch.delitem(others, name)
    with pytest.raises(gpt_core.GptError) as refused:
        gpt_core.load(checkpoint)
    assert str(refused.value) == (
        f"{checkpoint}: its {part} is not registered: got {name!r}, expected one of {', '.join(others)}; "
        "load it in a program that registers it"
    )
    contents = FolderScanner(str(checkpoint.parent)).scan()
    assert {status_cell(verification_of(file, {}))[0] for file in contents.files} == {"✗ unusable"}
    assert existing_run(str(checkpoint.parent)) == "a checkpoint that cannot be used here"
    with pytest.raises(RunExistsError, match=r"safetensors \(not usable here\)"):
        gpt_core.train(tmp_path / "train.en", models_dir=checkpoint.parent, layers=1, seq_len=16)
    monkeypatch.undo()
    assert gpt_core.load(checkpoint).step == 1


@pytest.mark.usefixtures("registered")
def test_a_registered_metric_is_shown_headless_and_in_the_runs_tab(tmp_path: Path) -> None:
    state = advance_all(RunState(), list(prepared(tmp_path, "one", 3)))
    assert "tokens seen 384" in figures(state)
    run = RunInfo(tmp_path / "one", RunStatus.FINISHED)
    assert ("tokens seen", "384") in [row[:2] for row in log_rows(run, state, 0.0, 40)]


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
async def test_a_registered_metric_is_a_row_of_the_status_panel(tmp_path: Path) -> None:
    async with running_app(tmp_path, autostart=True, size=(120, 40)) as bench:
        await bench.until(lambda: "tokens seen" in bench.text())
