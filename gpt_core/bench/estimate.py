"""What a run would take, before it begins: memory, size on disk, tokens and steps of an epoch, and, once a step has
been timed, its speed and the time of an epoch. Counted by formula; nothing here computes with a model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_core.files import reason
from gpt_core.model.flops import FLOAT_BYTES, activation_bytes
from gpt_core.model.parameters import parameter_count
from gpt_core.text.token_estimate import count_tokens
from gpt_core.training.setup import OVERFIT_SEQ_LEN, text_files

# What the process holds beside the model, measured: 60 MB the app at rest (interpreter, NumPy, BLAS, Textual), and the
# rest what a run and its charts add.
PROGRAM_BYTES = 80_000_000
STATE_COPIES = 4  # weights, gradients, two moments
SAVED_COPIES = 3  # of these, a checkpoint holds all but the gradients
FORWARD_SHARE = 1 / 3  # of a step's passes; the backward pass makes two products for each of the forward pass


class Memory(NamedTuple):
    """Bytes that a run holds at most. No single array exceeds what is counted here; see `gpt_core.model.flops`."""

    state: int
    """weights, gradients and AdamW's moments"""
    activations: int
    """the buffers of a forward and backward pass over one micro-batch"""
    kv_cache: int
    """keys and values of the sample at each evaluation"""
    program: int = PROGRAM_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class CorpusStats(NamedTuple):
    """The texts of a run, and the tokens in them; `counted` in the token cache, else estimated from their bytes."""

    train_file: Path
    train_bytes: int
    eval_file: Path | None
    train_tokens: int
    """that are learned: without those that are held out"""
    eval_tokens: int
    counted: bool


class StepTime(NamedTuple):
    """Seconds of the two parts of one optimizer step."""

    passes_s: float
    update_s: float

    @property
    def step_s(self) -> float:
        """The whole step."""
        return self.passes_s + self.update_s


class RunLength(NamedTuple):
    """How a run goes: steps, and seconds with its evaluations. Tiny overfit has no epochs: its counts are 0."""

    epoch_steps: int
    max_steps: int
    epoch_s: float
    max_s: float


def estimate_memory(settings: Settings, threads: int) -> Memory:
    """The memory of a run on so many threads."""
    shape = settings.shape
    return Memory(
        state=STATE_COPIES * FLOAT_BYTES * parameter_count(shape),
        activations=activation_bytes(shape, settings.micro_batch, window_length(settings), threads),
        kv_cache=2 * FLOAT_BYTES * shape.layers * shape.seq_len * shape.d_model if settings.sample_tokens else 0,
    )


def checkpoint_bytes(settings: Settings) -> int:
    """The size of one checkpoint; header and tokenizer, some kilobytes, are left out."""
    return SAVED_COPIES * FLOAT_BYTES * parameter_count(settings.shape)


def window_length(settings: Settings) -> int:
    """T: tokens of one window in training."""
    return min(settings.seq_len, OVERFIT_SEQ_LEN) if settings.overfit_tiny else settings.seq_len


def read_corpus_stats(settings: Settings) -> CorpusStats:
    """The texts that a run would use, and their tokens. Reads files: for a thread. Raises CorpusError."""
    train_file, eval_file = text_files(settings)
    train_bytes = _size(train_file)
    tokens, counted = count_tokens(train_file, settings.vocab_size, settings.tokenizer, settings.document)
    if eval_file is not None:
        eval_tokens = round(tokens * _size(eval_file) / max(1, train_bytes))
        return CorpusStats(train_file, train_bytes, eval_file, tokens, eval_tokens, counted)
    held_out = round(tokens * settings.val_frac)
    return CorpusStats(train_file, train_bytes, None, tokens - held_out, held_out, counted)


def count_epoch_steps(settings: Settings, train_tokens: int) -> int:
    """Optimizer steps that one pass over so many tokens takes."""
    windows = math.ceil(max(1, train_tokens - 1) / settings.seq_len)
    return math.ceil(windows / settings.batch_size)


def estimate_run_length(settings: Settings, texts: CorpusStats, time: StepTime) -> RunLength:
    """How a run on these texts goes at that speed, if nothing ends it early."""
    if settings.overfit_tiny:
        steps = min(settings.max_steps or settings.overfit_steps, settings.overfit_steps)
        return RunLength(0, steps, 0.0, steps * time.step_s)
    steps = count_epoch_steps(settings, texts.train_tokens)
    most = min(settings.max_steps or math.inf, settings.max_epochs * steps)
    every = settings.eval_every_steps
    evaluations = 1 + ((steps - 1) // every if every else 0)
    forward_s = FORWARD_SHARE * time.passes_s / (settings.batch_size * settings.seq_len)  # of one token
    epoch_s = steps * time.step_s + evaluations * texts.eval_tokens * forward_s
    return RunLength(steps, int(most), epoch_s, epoch_s * most / steps)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read the text {path}: {reason(error)}; name a text file") from None
