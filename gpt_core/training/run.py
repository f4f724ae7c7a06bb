"""Parts of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import NO_EPOCH_LIMIT, Settings
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator
from gpt_core.formats.checkpoint_header import TRAINED
from gpt_core.formats.training_state import TrainingState
from gpt_core.model.parameters import Parameters
from gpt_core.optim import OUTER_MOMENTUM, Optimizer, OptimizerState, OuterOptimizer
from gpt_core.text.data_loader import Batch
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer

MIN_TEXT_TOKENS = 1000  # of a training text, below which there is nothing to learn but the text itself


class BatchSource(Protocol):
    """Source of batches: `gpt_core.text.data_loader.DataLoader`, or the lines of the self-test."""

    @property
    def windows_per_epoch(self) -> int:
        """Number of windows in one pass over the text."""

    @property
    def seq_len(self) -> int:
        """Tokens per window (T)."""

    def read(self, epoch: int, first: int, count: int) -> Batch:
        """Return tokens and targets (count, T) of `count` windows, from position `first` of the epoch's order on."""


class Texts(NamedTuple):
    """Texts of a run, as tokens."""

    train: TokenStream
    windows: BatchSource
    """windows of the training text, which batches are read from"""
    held_out: TokenStream | None
    """tokens to evaluate on, None for the self-test"""
    eval_name: str
    """name of the text that these are of"""
    files: int
    """files of the training text; 0 for the lines of the self-test"""
    eval_path: Path | None = None
    """path that the caches of the eval text are named after, None where nothing is evaluated"""
    eval_sha256: str = ""
    """digest of the file that the eval text is, or is the end of"""

    @property
    def has_best(self) -> bool:
        """False if the eval text is the end of a tiny text, which cannot say which model is the best one."""
        return len(self.train) >= MIN_TEXT_TOKENS or self.eval_name != self.train.name


@dataclass
class Run:
    """Parts of a run, as `gpt_core.training.setup.open_run` assembles them.

    `best_restarted` says why a resumed run begins a new best score; "" if it does not.
    """

    settings: Settings
    preset: str
    texts: Texts
    tokenizer: Tokenizer
    parameters: Parameters
    optimizer: Optimizer
    state: TrainingState
    store: CheckpointStore
    outer: OuterOptimizer | None = None
    """outer optimizer of a run with rounds of local steps (`sync_every_steps`)"""
    resumed_from: Path | None = None
    earlier_folders: tuple[Path, ...] = ()
    """folders in which the run has saved before it was resumed, which may have its best model"""
    first_words: str = ""
    """beginning of the training text"""
    precision_reason: str = ""
    """why, if the requested precision was auto or the products are emulated"""
    best_restarted: str = ""
    warnings: tuple[str, ...] = ()
    communicator: Communicator = SINGLE_PROCESS
    is_reported: bool = True
    """False on ranks other than 0, which train and evaluate, but save, log, sample and report nothing"""
    model_reason: str = ""
    """why the time budget has led to the model and its settings"""
    first_step: int = field(init=False)
    """steps before this session"""

    def __post_init__(self) -> None:
        self.first_step = self.state.step

    @property
    def is_at_start(self) -> bool:
        """True before the first step of this session, at the step of the checkpoint that was resumed."""
        return self.state.step == self.first_step

    @property
    def evaluated(self) -> Parameters:
        """Weights that are evaluated, saved as the model, and generate text: the average, if the run keeps one."""
        average = self.optimizer.average
        return self.parameters if average is None else average

    @property
    def saved_state(self) -> OptimizerState:
        """State tensors of a checkpoint whose weights are `evaluated`."""
        trained = {} if self.optimizer.average is None else {TRAINED: self.parameters}
        outer = {} if self.outer is None else {OUTER_MOMENTUM: self.outer.momentum}
        return self.optimizer.state | trained | outer

    @property
    def is_finite(self) -> bool:
        """True if all values that a checkpoint holds are finite; it takes a pass over them."""
        return all(bool(np.isfinite(part.flat).all()) for part in (self.evaluated, *self.saved_state.values()))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per pass over the training text."""
        return math.ceil(self.texts.windows.windows_per_epoch / self.settings.batch_size)

    @property
    def epoch_start(self) -> int:
        """Step at which the current epoch began, or would have with the present text and batch size."""
        window = min(self.state.window, self.texts.windows.windows_per_epoch)
        return self.state.step - math.ceil(window / self.settings.batch_size)

    @property
    def epoch_files(self) -> int:
        """Number of `epoch_NNN` files that the run has yet to save; 0 if nothing but a time budget ends it."""
        settings, epoch, last = self.settings, self.state.epoch, self.settings.max_epochs
        if settings.max_steps:
            last = min(last, epoch + (settings.max_steps - self.epoch_start) // self.steps_per_epoch)
        if not settings.save_epoch_number or settings.overfit_tiny or last >= NO_EPOCH_LIMIT:
            return 0
        return max(0, last // settings.save_epoch_number - epoch // settings.save_epoch_number)

    @cached_property
    def step_limit(self) -> int:
        """Step at which the limits on steps and epochs end the run; it is the same after every step."""
        settings, state = self.settings, self.state
        if settings.overfit_tiny:
            limit = settings.overfit_steps
        else:
            windows_left = max(0, self.texts.windows.windows_per_epoch - state.window)
            later_epochs = settings.max_epochs - state.epoch - 1
            rest = math.ceil(windows_left / settings.batch_size) + later_epochs * self.steps_per_epoch
            limit = state.step + max(0, rest)
        return min(settings.max_steps, limit) if settings.max_steps else limit
