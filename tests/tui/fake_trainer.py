"""Fake trainer without a model: events of a plausible run at a chosen speed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from gpt_core.config.settings import ModelShape, Settings
from gpt_core.formats.training_state import TrainingState
from gpt_core.generation.generator import Figures
from gpt_core.generation.sampler import Sampling
from gpt_core.model.parameters import Parameters
from gpt_core.progress import Progress
from gpt_core.text.token_stream import tokens_of_documents
from gpt_core.tokenizers import Tokenizer
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_core.training.controls import TrainingControls
from gpt_core.training.events import (
    AnyEvent,
    CheckpointSaved,
    EvalCompleted,
    RunContinued,
    RunFinished,
    RunPaused,
    RunStarted,
    SampleWritten,
    StepCompleted,
)
from gpt_core.training.request import RunRequest
from gpt_tui.session.controller import TrainerLike
from gpt_tui.session.models import LoadedModel

SMALL = ModelShape(d_model=4, hidden_size=4, vocab_size=260, num_heads=1, seq_len=2, layers=1)


def loss_at(step: int, noise: float) -> float:
    """Return a plausible loss: from ln 2048 down to about 2.6 nats."""
    return 2.6 + 4.4 * math.exp(-step / 250) + 0.6 * math.exp(-step / 3000) + noise


class FakeTrainer:
    """Steps take `step_s`; everything a real trainer does at step boundaries is done here, too.

    The step after `hold_at` takes until `unpause`, however long that is, whatever is asked for meanwhile.
    """

    warnings: tuple[str, ...] = ()

    def __init__(
        self, request: RunRequest, *, step_s: float = 0.001, fail_at: dict[int, Exception] | None = None,
        hold_at: int = -1, unpause: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self.settings = request.settings
        self.requests = TrainingControls()
        self.saving = False
        self.unsaved = 0
        self.tokenizer: Tokenizer = PieceTokenizer.train([b"abc"], 260)
        self.probe_text = tokens_of_documents([b"abc"], self.tokenizer)
        self.resumed_at = 100 if request.resume else 0
        self.step = self.resumed_at
        self.saved: list[int] = []
        self.state = TrainingState(run_id="fake", step=self.resumed_at)
        self.earlier_log = Path(request.settings.models_dir, "metrics.jsonl") if self.resumed_at else None
        self._step_s = step_s
        self._fail_at = fail_at or {}
        self._hold_at, self._go_on = hold_at, unpause or threading.Event()
        self._noise = np.random.default_rng(1)
        self._elapsed_s = 0.0
        self.preset_name = request.preset_name

    def weights_snapshot(self) -> tuple[Parameters, int]:
        """Return weights of a small shape."""
        return Parameters(SMALL), self.step

    def events(self) -> Generator[AnyEvent]:
        """Run and yield events."""
        settings = self.settings
        overfit = settings.overfit_tiny
        per_epoch = 0 if overfit else 900
        last = settings.overfit_steps if overfit else settings.max_steps
        yield RunStarted(
            step=self.step, epoch=0, kind="overfit-tiny" if overfit else "train", preset=self.preset_name,
            parameters=1_058_944, train_tokens=1_210_000, eval_tokens=96_000, batch_tokens=1024,
            steps_per_epoch=per_epoch, max_steps=last, threads=2, seed=0,
            train_file="data/raw/train.en", eval_file="data/test/eval.en",
            resumed_from="models/ckpt_latest.safetensors" if self.resumed_at else "", elapsed_s=0.0,
            warnings=self.warnings,
        )  # fmt: skip
        if not self.resumed_at:
            yield self._sample()
        reason = "stopped"
        while not self.requests.stopping:
            if self.requests.pausing:
                yield RunPaused(self.step)
                while self.requests.pausing and not self.requests.stopping:
                    if self.requests.take_single_step():
                        yield self._one_step()
                    if self.requests.take_save():
                        yield self._save("latest")
                    time.sleep(0.001)
                yield RunContinued(self.step)
                continue
            yield self._one_step()
            if self.requests.take_save():
                yield self._save("latest")
            if not overfit and (self.step % 250 == 0 or self.requests.take_evaluate()):
                yield self._evaluation()
                yield self._sample()
                yield self._save("best")
            if last and self.step >= last:
                reason = "overfit_done" if overfit else "max_steps"
                break
        if not self.requests.discarding:
            yield self._save("latest")
        yield RunFinished(reason, self.step)

    def _one_step(self) -> StepCompleted:
        if self._step_s:
            time.sleep(self._step_s)
        if self.step == self._hold_at:
            self._go_on.wait()
        self.step += 1
        if error := self._fail_at.get(self.step):
            raise error
        self._elapsed_s += 0.0102
        loss = loss_at(self.step, float(self._noise.normal()) * 0.12)
        warm = min(1.0, self.step / 100)
        return StepCompleted(
            step=self.step, epoch=self.step // 900, loss=loss, ppl=math.exp(loss), lr=3e-3 * warm,
            grad_norm=0.4 + 0.2 / warm ** 0.3,
            tokens=self.step * 1024, tokens_per_s=100_400.0, elapsed_s=self._elapsed_s,
        )  # fmt: skip

    def _evaluation(self) -> EvalCompleted:
        loss = loss_at(self.step, 0.05)
        accuracy = 0.36 * (1 - math.exp(-self.step / 900)) + 0.02
        return EvalCompleted(self.step, loss, math.exp(loss), accuracy, loss / 2.98 / math.log(2) * 2)

    def _sample(self) -> SampleWritten:
        return SampleWritten(self.step, "It was", f" [b]the text[/b] after {self.step} steps \x1b[31mof training")

    def _save(self, kind: str) -> CheckpointSaved:
        if kind == "latest":
            self.saved.append(self.step)
        name = {"latest": "ckpt_latest", "best": "best_model"}[kind]
        return CheckpointSaved(kind, f"{self.settings.models_dir}/{name}.safetensors", self.step)


@dataclass
class FakeOpen:
    """Opens fake trainers and records them; `error` is raised instead of opening, `gate` delays the opening.

    `hold_at` holds a run up after that step, until `unpause` is set.
    """

    step_s: float = 0.001
    error: Exception | None = None
    fail_at: dict[int, Exception] = field(default_factory=dict)
    gate: threading.Event | None = None
    hold_at: int = -1
    unpause: threading.Event = field(default_factory=threading.Event)
    trainers: list[FakeTrainer] = field(default_factory=list)
    requests: list[RunRequest] = field(default_factory=list)

    def __call__(self, request: RunRequest, progress: Progress) -> TrainerLike:
        """Open a run."""
        self.requests.append(request)
        progress("making tokens of the text", 0.42)
        while self.gate and not self.gate.wait(0.005):
            progress("making tokens of the text", 0.5)
        if self.error and not request.overwrite:
            raise self.error
        self.trainers.append(
            FakeTrainer(request, step_s=self.step_s, fail_at=self.fail_at, hold_at=self.hold_at, unpause=self.unpause)
        )
        return self.trainers[-1]


class FakeGenerator:
    """Generator that repeats the same words, one per `piece_s` seconds."""

    def __init__(self, piece_s: float = 0.002, text: str = "the sea was [bold]calm[/bold] \x1b[31m and ") -> None:
        self.figures = Figures()
        self._piece_s = piece_s
        self._words = text.split(" ")

    def generate(
        self, prompt: str, sampling: Sampling, *, keep_bytes: bool = False, is_stopped: Callable[[], bool]
    ) -> Iterator[str]:
        """Yield pieces of text."""
        for number in range(sampling.max_tokens):
            time.sleep(self._piece_s)
            ended_by = "max_tokens" if number + 1 == sampling.max_tokens else ""
            self.figures = Figures(3, 0, 0.01, number + 1, self._piece_s * number, ended_by)
            yield " " + self._words[number % len(self._words)]
            if is_stopped():
                return


def fake_generator(piece_s: float = 0.002) -> Callable[[LoadedModel, int | None], FakeGenerator]:
    """Return a factory of fake generators."""
    return lambda answerer, seed: FakeGenerator(piece_s)


def fake_settings(models_dir: str, **changes: object) -> Settings:
    """Return the nano preset with a models folder of the test."""
    from gpt_core.config.presets import preset

    return msgspec.structs.replace(preset("nano"), models_dir=models_dir, **changes)
