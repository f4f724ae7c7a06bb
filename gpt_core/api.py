"""Public API: training as an iterator of events, and a trained model that generates and evaluates text.

`gpt_core` re-exports the names below.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import GEN_RUNNING, getgeneratorstate
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_core.bench.budget_rule import budget_request
from gpt_core.bridges.export import ExportResult, export_model
from gpt_core.bridges.importing import import_checkpoint
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import PREFERENCES
from gpt_core.config.validation import checked, parsed
from gpt_core.errors import ConfigError, shown
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.training_state import TrainingState
from gpt_core.generation.generator import Generator, prompt_bytes, with_bos
from gpt_core.generation.sampler import Sampling
from gpt_core.home import expand_home
from gpt_core.interpret.predictions import token_losses
from gpt_core.kernels import compute_threads
from gpt_core.kernels import threads as kernel_threads
from gpt_core.kernels.arrays import as_ids
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters
from gpt_core.model.scores import EvalScores
from gpt_core.model.stored_weights import StoredWeights, WeightFormat
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.documents import DocumentKind
from gpt_core.text.source import PathLike
from gpt_core.text.token_cache import load_tokens
from gpt_core.tokenizers import Tokenizer
from gpt_core.training import evaluation
from gpt_core.training.evaluation import EvalResult
from gpt_core.training.events import AnyEvent, CheckpointSaved, FullEvalCompleted, RunFinished, SaveFailed
from gpt_core.training.interrupts import interrupts_held
from gpt_core.training.metrics import BUILT_IN, MetricValues, metrics
from gpt_core.training.request import Newest
from gpt_core.training.setup import named_text, open_run
from gpt_core.training.trainer import Trainer

Texts = PathLike | Sequence[PathLike]
"""A file, a folder or a pattern such as `texts/**/*.txt`, or several of them."""


def train(
    train_file: Texts | None = None,
    *,
    preset: str | None = None,
    config_file: PathLike | None = None,
    resume: PathLike | None = None,
    overwrite: bool = False,
    progress: Progress = ignore_progress,
    **settings: object,
) -> TrainingRun:
    """Prepare a training run. Steps are taken as the returned iterator is advanced.

    Args:
        train_file: Training text: files, folders or patterns; None for `train.*` or `input.*` in `data/`, else the
            shipped text. Files may be compressed (.gz, .zst); each line of a .jsonl file, and each row of a .csv or
            .parquet file, is a document, the text in the field that the setting `text_field` names.
        preset: "nano" (1M parameters, the default), "micro" (10M), "mini" (57.5M), or "induction", an experiment: a
            small model of a generated text, in which an induction head forms.
        config_file: TOML file of settings.
        resume: Checkpoint to resume, or "newest" for the newest valid one in `models_dir`.
        overwrite: Replace the checkpoints of another run in `models_dir`.
        progress: Receives the activity and its completed fraction while the run is prepared.
        **settings: Any setting by name, such as `max_steps`, `models_dir`, `seed`, `eval_file` or `encoding`; with
            `init_from`, the run starts from the weights of a checkpoint.

    Raises:
        GptError: A setting, a file or the folder is not usable; the message says what to do.
    """
    if isinstance(train_file, str) and not train_file:  # as of a variable without a value: not the default text
        raise ConfigError("train_file: got '', expected a path (from argument)")
    if not isinstance(overwrite, bool | np.bool_):  # such as "no", which counts as true
        raise ConfigError(f"overwrite: got {shown(overwrite)}, expected true or false (from argument)")
    values = settings if train_file is None else {"train_file": train_file, **settings}
    file = checked_path("config_file", config_file) if config_file is not None else None
    overrides = read_overrides(preset, file, foreign=PREFERENCES)
    checkpoint: Path | Newest | None = (
        None if resume is None else "newest" if resume == "newest" else checked_path("resume", resume)
    )
    request = budget_request(
        overrides.override("argument", values), resume=checkpoint, overwrite=overwrite, progress=progress
    )
    return TrainingRun(open_run(request, progress))


def load(path: PathLike, *, threads: int | None = None, weights: WeightFormat = "float32") -> Model:
    """Load the model of a checkpoint.

    Args:
        path: Checkpoint (.safetensors).
        threads: Compute threads of this process, also of its training runs (0: one per core). None keeps the number
            that was set before, by a training run or an earlier call, else it is one per core.
        weights: How the weights are stored in memory: "float32", "bfloat16" or "int8". Fewer bits decode faster.

    Raises:
        ConfigError: There is no such format or number of threads.
        GptError: The file is missing or damaged, or its tokenizer is not registered.
    """
    weight_format = checked("weights", weights, "argument")
    if threads is None:
        kernel_threads.set_default_threads(compute_threads(0))
    else:
        count = checked("threads", threads, "argument")
        assert isinstance(count, int)
        kernel_threads.set_threads(compute_threads(count))
    bundle = load_bundle(checked_path("path", path))
    return Model(replace(bundle, settings=msgspec.structs.replace(bundle.settings, weights=weight_format)))


def import_model(source: PathLike, output: PathLike | None = None, *, progress: Progress = ignore_progress) -> Path:
    """Convert a model of another program to a checkpoint, and return its path.

    Args:
        source: Folder of a GPT-2 model as `save_pretrained` of transformers writes it, or a GGUF file of one; or of a
            Qwen3 model with as many key heads as query heads and a rope_theta of 10000, as `Model.export` writes it.
        output: Checkpoint to create, which ends in `.safetensors`; None for one named after the source in `models`.
        progress: Receives the activity and its completed fraction.

    Raises:
        GptError: The model cannot be imported, or the output exists or cannot be written. Nothing is left.
    """
    target = None if output is None else checked_path("output", output)
    return import_checkpoint(checked_path("source", source), target, progress=progress).path


class TrainingRun(Iterator[AnyEvent]):
    """A training run: an iterator of events (`gpt_core.training.events`), from RunStarted to RunFinished.

    `stop` and `save` may be called from the loop over the events, from other threads and from signal handlers; `close`
    from the loop and from other threads. As a context manager, the run is stopped and saved on exit; with
    `sync_every_steps`, an exit within a round keeps the last checkpoint, and `stop` waits for the end of the round.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._events = trainer.events()
        self._advancing = threading.RLock()
        self._next: AnyEvent | None = None  # not None after an interrupt before it was returned
        self._values = values_before(trainer.state)
        self._full_eval: FullEvalCompleted | None = None
        self._finished: RunFinished | None = None
        self._saved: dict[str, Path] = {}
        self._save_errors: dict[str, str] = {}

    def __iter__(self) -> TrainingRun:
        return self

    def __next__(self) -> AnyEvent:
        with self._advancing:
            if self._next is None:
                with interrupts_held(self._trainer.requests.stop):
                    self._next = event = next(self._events)
                    if isinstance(event, CheckpointSaved):
                        self._saved[event.kind] = Path(event.path)
                        self._save_errors.pop(event.kind, None)
                    elif isinstance(event, SaveFailed):
                        self._save_errors[event.kind] = event.error
                    elif isinstance(event, FullEvalCompleted):
                        self._full_eval = event
                    elif isinstance(event, RunFinished):
                        self._finished = event
                    self._values = self._values.updated((event,), metrics())  # last: a metric of the user may raise
            event, self._next = self._next, None
            return event

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def settings(self) -> Settings:
        """Settings of the run."""
        return self._trainer.settings

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._trainer.step

    @property
    def metrics(self) -> Mapping[str, float]:
        """Latest value of each registered metric that has one, by name."""
        return self._values.latest

    @property
    def model(self) -> Model:
        """The model with a copy of the present weights."""
        parameters, step = self._trainer.weights_snapshot()
        evaluated = self._trainer.state.last_eval
        scores = evaluated if evaluated is not None and evaluated.step == step else None
        preset = self._trainer.run.preset
        return Model(ModelBundle(self.settings, parameters, self._trainer.tokenizer, step, preset, scores))

    def save(self) -> None:
        """Save `ckpt_latest` at the next step boundary."""
        self._trainer.requests.save()

    def stop(self, *, save: bool = True) -> None:
        """Stop at the next step boundary, after saving `ckpt_latest` unless `save` is false."""
        self._trainer.requests.stop(save=save)

    def close(self) -> None:
        """Stop the run if it has not ended, save it, and release its folder.

        If another thread is within a step, the run is stopped at the end of that step; this waits for it.

        Raises:
            RuntimeError: This thread is within a step, which a signal handler has interrupted.
        """
        if not self._advancing.acquire(blocking=False):
            if not self._trainer.requests.stopping:
                self.stop()
            self._advancing.acquire()
        try:
            if getgeneratorstate(self._events) == GEN_RUNNING:
                raise RuntimeError("the run cannot be closed within a step: call stop() here, and close() after it")
            self._events.close()
            self._trainer.run.store.close()
        finally:
            self._advancing.release()

    def result(self) -> TrainingResult:
        """Run to the end and return the result.

        Raises:
            RuntimeError: The run was closed before its end.
        """
        for _ in self:
            pass
        if self._finished is None:
            raise RuntimeError("the run was closed before its end, so it has no result")
        reason, step = self._finished.reason, self._finished.step
        saved = self._saved
        return TrainingResult(
            reason, step, self.metrics, saved.get("latest"), saved.get("best"), self.model, self._full_eval,
            final_checkpoint=saved.get("final"), save_errors=self._save_errors,
        )  # fmt: skip


def values_before(state: TrainingState) -> MetricValues:
    """Return the metric values of a resumed run before its first event, as far as the checkpoint has them."""
    latest, averages = dict[str, float](), dict[str, tuple[float, int]]()
    if state.step_loss is not None:
        latest["step_loss"] = state.step_loss
    if (scores := state.last_eval) is not None:
        latest |= {"eval_loss": scores.loss, "accuracy": scores.accuracy, "bits_per_byte": scores.bits_per_byte}
    if (value := state.train_loss) is not None:
        for metric in BUILT_IN:
            if metric.smoothed:
                latest[metric.name] = metric.transform(value) if metric.transform else value
                averages[metric.name] = value, state.averaged_steps
    return MetricValues(latest, averages)


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a training run.

    Attributes:
        reason: Why the run ended: max_steps, max_epochs, deadline, early_stopping, epsilon, overfit_done, stopped or
            diverged.
        step: Optimizer steps taken.
        metrics: Last value of each registered metric that has one, by name.
        checkpoint: `ckpt_latest` as this run saved it, None if it did not.
        best_checkpoint: `best_model` as this run saved it, None if it did not.
        model: The model with its final weights.
        full_eval: Last scores of the complete eval text, where they are not those of every evaluation; else None.
        final_checkpoint: `transformer` as this run saved it, None if it did not: a run that was stopped or has
            diverged, and a self-test, save none.
        save_errors: Error of each kind of checkpoint whose last save failed, by kind: latest, epoch, best or final. The
            file of that kind is the one before, if there was one.
    """

    reason: str
    step: int
    metrics: Mapping[str, float]
    checkpoint: Path | None
    best_checkpoint: Path | None
    model: Model
    full_eval: FullEvalCompleted | None = None
    final_checkpoint: Path | None = None
    save_errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def train_loss(self) -> float | None:
        """Train loss (smoothed) in nats per token; None if no step was taken."""
        return self.metrics.get("train_loss")

    @property
    def eval_loss(self) -> float | None:
        """Loss of the last evaluation, in nats per token; None if there was none before the end of the run."""
        return self.metrics.get("eval_loss")


class TokenLosses(NamedTuple):
    """Losses of the tokens of a text.

    Attributes:
        ids: Ids of the tokens (N,). With a tokenizer that adds no `<bos>`, the first token has no loss and is left out.
        losses: Loss of each in nats (N,): -ln of its probability after the tokens before it. `loss / ln(2)` is its
            surprise in bits.
    """

    ids: NDArray[np.int32]
    losses: NDArray[np.float32]


class Model:
    """A trained model with its tokenizer. Use it from one thread at a time. It can be copied and pickled.

    Attributes:
        bundle: Settings, parameters and tokenizer.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle
        self._gpt: GPT | None = None
        self._stored: StoredWeights | None = None

    def __reduce__(self) -> tuple[type[Model], tuple[ModelBundle]]:
        return type(self), (self.bundle,)

    def __repr__(self) -> str:
        shape = self.settings.shape
        name = f"{self.bundle.preset_name} " if self.bundle.preset_name else ""
        return (
            f"<Model {name}{shape.layers} layer{'s' * (shape.layers != 1)}, {shape.d_model} channels, step {self.step}>"
        )

    @property
    def settings(self) -> Settings:
        """Settings of the run that trained the model."""
        return self.bundle.settings

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with."""
        return self.bundle.tokenizer

    @property
    def parameters(self) -> Parameters:
        """The weights."""
        return self.bundle.parameters

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.bundle.step

    @property
    def scores(self) -> EvalScores | None:
        """Eval loss, accuracy and bits per byte in the run, None if the run did not evaluate this step."""
        return self.bundle.scores

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Return text that continues the prompt, without the prompt itself.

        Args:
            prompt: Text to continue.
            max_tokens: Maximum number of tokens.
            temperature: Above 1 flattens the distribution, below 1 sharpens it; 0 = greedy.
            top_k: Sample from the k most probable tokens; 0 = all.
            top_p: Sample from the smallest set of tokens with total probability p; 1 = off.
            repetition_penalty: Above 1 makes tokens already in the text less probable; 1 = off.
            seed: Random seed; None for different text each time.

        Arguments that are None have the values of the model's settings.

        Raises:
            ConfigError: An argument is out of bounds or of the wrong type.
            LogitsError: The logits are not finite: the weights are damaged, or of a run that diverged.
        """
        return "".join(
            self.stream(
                prompt, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                repetition_penalty=repetition_penalty, seed=seed,
            )
        )  # fmt: skip

    def stream(
        self,
        prompt: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield the text of `generate` in pieces, as they are generated. The arguments are the same."""
        given = {
            "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "repetition_penalty": repetition_penalty, "seed": seed,
        }  # fmt: skip
        values = {name: checked(name, value, "argument") for name, value in given.items() if value is not None}
        settings, text = msgspec.structs.replace(self.settings, **values), checked_text("prompt", prompt)
        if self._stored is None:
            self._stored = StoredWeights(self.parameters, self.settings.weights)
        generator = Generator(self._stored, self.tokenizer, seed=None if seed is None else settings.seed)
        return generator.generate(text, Sampling.from_settings(settings))

    def evaluate(
        self,
        file: Texts,
        *,
        encoding: str | None = None,
        text_field: str | None = None,
        document: DocumentKind | None = None,
        allow_binary: bool | None = None,
        progress: Progress = ignore_progress,
    ) -> EvalResult:
        """Evaluate the model on a text: loss, perplexity, accuracy, bits_per_byte, tokens.

        The tokens of the text are cached beside it, or in the user's cache folder.

        Args:
            file: Text, of the same kinds as the `train_file` of `train`.
            encoding: Encoding of files that are not UTF-8; None for the setting of the model's run.
            text_field: Field of JSON Lines, CSV and Parquet files; None for the setting of the model's run.
            document: "paragraph", "line" or "file": one document of a text file; None for the setting of the model's
                run. Scores of a text that is cut into other documents are not comparable.
            allow_binary: Take the bytes of files that are not text; None for the setting of the model's run.
            progress: Receives the activity and its completed fraction.

        Raises:
            ConfigError: There is no such encoding or kind of document.
            CorpusError: A file cannot be read, or is not text and `allow_binary` is off; or the text is too short.
        """
        given = {
            "eval_file": file, "encoding": encoding, "text_field": text_field, "document": document,
            "allow_binary": allow_binary,
        }  # fmt: skip
        values = {
            name: checked(name, parsed(name, value), "argument") for name, value in given.items() if value is not None
        }
        settings = msgspec.structs.replace(self.settings, **values)
        source = named_text(settings, settings.eval_file)
        text = load_tokens(source, self.tokenizer, settings.document, progress=progress)
        return evaluation.evaluate(
            self._model(), text, settings.micro_batch,
            lambda done, total: progress(f"evaluating {source.title}", done / total),
        )  # fmt: skip

    def export(
        self, format: str, path: PathLike, *, type: str | None = None, progress: Progress = ignore_progress
    ) -> ExportResult:
        """Write the model in the format of another program, read it back and compare it with the model.

        Args:
            format: "hf" for a folder that transformers loads, "gguf" for a file that llama.cpp loads, "html" for a web
                page that runs the model.
            path: Folder or file to create; nothing is replaced.
            type: Number type of the weights: "f32" (the default); for gguf also "f16", "bf16" or "q8_0"; for html also
                "bf16" or "int8".
            progress: Receives the activity and its completed fraction.

        Raises:
            ConfigError: There is no such format or type.
            ExportError: The format cannot hold the model, or the path exists or cannot be created.
            SaveError: Writing failed, or the disk is full. Nothing is left at the path.
        """
        return export_model(self.bundle, format, checked_path("path", path), number_type=type, progress=progress)

    def logits(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return the logits of the token that follows each id. Shape: (T, V).

        Args:
            ids: Token ids (T,), at most the context length.

        Raises:
            ValueError: There are no ids or too many, or one is not an integer in the vocabulary.
        """
        tokens = as_ids(ids, "ids")
        vocab_size, context = self.settings.vocab_size, self.settings.seq_len
        if tokens.ndim != 1 or not 1 <= tokens.size <= context:
            raise ValueError(f"ids: got shape {tokens.shape}, expected (T,) with T from 1 to {context}")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise ValueError(f"ids: got {tokens.min()} to {tokens.max()}, expected 0 to {vocab_size - 1}")
        logits: NDArray[np.float32] = self._model().logits(tokens[None])[0]
        return logits

    def token_losses(self, text: str) -> TokenLosses:
        """Return how well the model predicts each token of a text.

        A text longer than the context is cut as `evaluate` cuts it: each token is predicted from at most `seq_len`
        tokens before it. `gpt_core.interpret` has more functions of this kind.

        Args:
            text: Text, as one document without its end.

        Raises:
            ConfigError: The text is no string.
        """
        tokenizer, T = self.tokenizer, self.settings.seq_len
        ids = np.array(
            with_bos(tokenizer, tokenizer.encode(prompt_bytes(checked_text("text", text))).tolist()), np.int32
        )
        windows = [ids[None, first : first + T + 1] for first in range(0, len(ids) - 1, T)]
        losses = [token_losses(self._model(), window)[0] for window in windows]
        return TokenLosses(ids[1:], np.concatenate([np.empty(0, np.float32), *losses]))

    def _model(self) -> GPT:
        if self._gpt is None:
            self._gpt = self.bundle.gpt()
        return self._gpt


def checked_text(name: str, value: object) -> str:
    """Return the text of an argument. Raises ConfigError for anything but a string."""
    if not isinstance(value, str):
        hint = "; decode bytes first" if isinstance(value, bytes) else ""
        raise ConfigError(f"{name}: got {shown(value)}, expected text{hint} (from argument)")
    return value


def checked_path(name: str, value: object) -> Path:
    """Return the path of an argument, with `~` replaced. Raises ConfigError for "" and all but a string or a path."""
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise ConfigError(f"{name}: got {shown(value)}, expected a path (from argument)")
    return expand_home(path)
