"""Estimate of a run before it starts: memory, checkpoint size, tokens and steps per epoch, and duration.

Everything is counted by formula. Durations also need the time of a step (`gpt_core.bench.step_timing`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt_core.config.settings import ModelShape, Settings
from gpt_core.formats.checkpoint_header import checkpoint_layout, saved_state
from gpt_core.formats.safetensors import data_bytes
from gpt_core.model.memory import activation_bytes, kv_cache_bytes, weight_bytes
from gpt_core.model.precision import product_format
from gpt_core.optim import optimizer_type, outer_bytes
from gpt_core.text.reader import size_of
from gpt_core.text.shuffled_documents import DOCUMENT_BYTES
from gpt_core.text.token_estimate import estimate_size
from gpt_core.text.token_stream import held_out_fraction
from gpt_core.training.evaluation import epochs_per_evaluation, max_part_tokens
from gpt_core.training.fine_tuning import peek_start
from gpt_core.training.gradient_sum import summed_gradient_bytes
from gpt_core.training.precision import PrecisionChoice
from gpt_core.training.setup import text_note, text_sources, window_length

# Memory of the process without the model, measured: 60 MB for the idle app (interpreter, NumPy, BLAS, Textual), and
# 20 MB for a run and its charts.
PROGRAM_BYTES = 80_000_000
FORWARD_SHARE = 1 / 3  # fraction of a step's FLOPs: the backward pass makes two products per product of the forward


class MemoryEstimate(NamedTuple):
    """Peak memory of a run in bytes."""

    state: int
    """weights, gradients and optimizer state"""
    activations: int
    """buffers of a forward and backward pass over one micro-batch, and of an update"""
    kv_cache: int
    """keys and values of the sample after each evaluation"""
    documents: int = 0
    """places of the documents if they are shuffled"""
    program: int = PROGRAM_BYTES

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(self)


class CorpusStats(NamedTuple):
    """Texts of a run and their token counts."""

    train_title: str
    train_bytes: int
    """of its files"""
    eval_title: str
    """"" if the eval text is held out of the training text"""
    train_tokens: int
    """without those that are held out"""
    eval_tokens: int
    counted: bool
    """True for counts from the token cache, False for an estimate from the size of the text"""
    note: str = ""
    """texts under `data/` that are not used, "" for none"""
    files: int = 1
    """files of the training text"""
    documents: int = 0
    """documents of the training text, those that are held out included"""
    documents_counted: bool = True
    """False for an estimate"""
    bytes_per_token: float = 0.0
    words: str = ""
    """beginning of the training text"""


class StepTime(NamedTuple):
    """Duration of one optimizer step in seconds."""

    passes_s: float
    """forward and backward passes of all micro-batches"""
    update_s: float
    """clipping and optimizer update"""
    precision: PrecisionChoice = PrecisionChoice("float32", "")
    """format of the products that were timed, and why"""

    @property
    def step_s(self) -> float:
        """Sum of both."""
        return self.passes_s + self.update_s


class RunLength(NamedTuple):
    """Length of a run in steps and seconds, evaluations included.

    The run that overfits a few lines has no epochs: its `epoch_steps` and `epoch_s` are 0.
    """

    epoch_steps: int
    max_steps: int
    epoch_s: float
    max_s: float


def estimate_memory(
    settings: Settings, threads: int, texts: CorpusStats | None = None, ranks: int = 1
) -> MemoryEstimate:
    """Return the memory that a run needs, of a run on several ranks that of one of them.

    With a precision of `auto`, it is that in float32, which needs more.

    Args:
        settings: Settings of the run.
        threads: Number of threads.
        texts: Its texts; None if unknown, then without the places of shuffled documents.
        ranks: Number of ranks.
    """
    shape = settings.shape
    is_shuffled = settings.shuffle == "documents" and not settings.overfit_tiny
    return MemoryEstimate(
        state=model_state_bytes(settings, ranks),
        activations=activation_bytes(
            shape, settings.micro_batch, window_length(settings), threads, product_format(settings.precision)
        )
        + optimizer_type(settings.optimizer).scratch_bytes(shape, threads),
        kv_cache=kv_cache_bytes(shape, shape.seq_len) if settings.sample_tokens else 0,
        documents=DOCUMENT_BYTES * texts.documents if texts is not None and is_shuffled else 0,
    )


def model_state_bytes(settings: Settings, ranks: int = 1) -> int:
    """Return the bytes of weights, gradients, optimizer states and any average of the weights, per rank of a run."""
    has_local_steps = settings.sync_every_steps > 0
    return training_state_bytes(
        settings.shape, settings.optimizer, averaged=settings.ema > 0, local_steps=has_local_steps,
        gradients=summed_gradient_bytes(
            settings.shape, math.ceil(settings.micro_batches / ranks), is_exchanged=ranks > 1 and not has_local_steps
        ),
    )  # fmt: skip


def training_state_bytes(
    shape: ModelShape, optimizer: str, *, averaged: bool, gradients: int, local_steps: bool = False
) -> int:
    """Return the bytes of weights, gradients and optimizer states, and of the average of the weights if there is one.

    Args:
        shape: Shape of the model.
        optimizer: Name of the optimizer.
        averaged: The weights are averaged.
        gradients: Bytes of the gradients while those of the micro-batches are added.
        local_steps: The run has rounds of local steps, and so an outer optimizer.
    """
    weights = weight_bytes(shape) * (2 if averaged else 1)
    outer = outer_bytes(shape) if local_steps else 0
    return weights + gradients + optimizer_type(optimizer).state_bytes(shape) + outer


def checkpoint_tensor_bytes(settings: Settings) -> int:
    """Return the bytes of the tensors in a checkpoint: its size without header and tokenizer, some kilobytes."""
    return data_bytes(checkpoint_layout(settings.shape, saved_state(settings), 0))


def read_corpus_stats(settings: Settings) -> CorpusStats:
    """Return the texts that a run would use, and their token counts.

    Reads files, so call it outside the UI thread.

    Raises:
        CorpusError: A text cannot be read.
        CheckpointError: The checkpoint that the run starts from cannot be read.
    """
    train, held_out = text_sources(settings)
    tokenizer_sha256 = peek_start(settings.init_from).tokenizer_sha256 if settings.init_from else ""
    found = estimate_size(train, settings.vocab_size, settings.tokenizer, settings.document, tokenizer_sha256)
    tokens, preview = found.tokens, found.preview
    if held_out is not None:
        eval_size = sum(map(size_of, held_out.files))
        eval_tokens = round(tokens * eval_size / max(1, preview.raw_bytes))
    else:
        eval_tokens = round(tokens * held_out_fraction(tokens, settings.val_frac))
        tokens -= eval_tokens
    is_undivided = held_out is not None  # else a run divides the text at the end of a document
    return CorpusStats(
        train.title, preview.raw_bytes, held_out.title if held_out else "", tokens, eval_tokens,
        found.counted and is_undivided, text_note(settings, train), len(train.files), preview.documents,
        preview.is_exact and is_undivided, found.bytes_per_token, preview.words,
    )  # fmt: skip


def count_epoch_steps(settings: Settings, train_tokens: int) -> int:
    """Return the number of optimizer steps in one pass over `train_tokens` tokens."""
    windows = math.ceil(max(1, train_tokens - 1) / settings.seq_len)
    return math.ceil(windows / settings.batch_size)


def max_run_steps(settings: Settings, train_tokens: int) -> float:
    """Return the number of steps after which `max_steps` or `max_epochs` ends a run on `train_tokens` tokens."""
    return min(settings.max_steps or math.inf, settings.max_epochs * count_epoch_steps(settings, train_tokens))


def step_tokens(settings: Settings, train_tokens: int) -> float:
    """Return the mean number of tokens of a step: the last step of a pass has what is left of the text."""
    return train_tokens / count_epoch_steps(settings, train_tokens)


def estimate_run_length(settings: Settings, corpus: CorpusStats, time: StepTime) -> RunLength:
    """Return the length of a run at this step time if it does not stop early."""
    if settings.overfit_tiny:
        steps = min(settings.max_steps or settings.overfit_steps, settings.overfit_steps)
        if settings.minutes:
            steps = max(1, min(steps, int(60 * settings.minutes / time.step_s)))
        return RunLength(0, steps, 0.0, steps * time.step_s)
    steps = count_epoch_steps(settings, corpus.train_tokens)
    max_steps = max_run_steps(settings, corpus.train_tokens)
    every = settings.eval_every_steps or math.inf
    part_tokens = min(max_part_tokens(settings) or corpus.eval_tokens, corpus.eval_tokens)
    evaluations = (steps - 1) // every if every < steps else steps / every
    at_ends = corpus.eval_tokens / epochs_per_evaluation(settings.eval_every_steps, steps)
    scored_tokens = at_ends + evaluations * part_tokens
    forward_s_per_token = FORWARD_SHARE * time.passes_s / (settings.batch_size * settings.seq_len)
    epoch_s = steps * time.step_s + scored_tokens * forward_s_per_token
    if settings.minutes:
        max_steps = max(1, min(max_steps, int(60 * settings.minutes / epoch_s * steps)))
    return RunLength(steps, int(max_steps), epoch_s, epoch_s * max_steps / steps)
