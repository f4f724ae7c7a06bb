"""What one run is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import Settings
from gpt_core.formats.training_state import TrainingState
from gpt_core.model.parameters import Parameters
from gpt_core.optim import Optimizer
from gpt_core.text.data_loader import Batch
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer


class BatchSource(Protocol):
    """Where batches come from: `gpt_core.text.data_loader.DataLoader`, or the lines of tiny overfit."""

    @property
    def windows_per_epoch(self) -> int:
        """Windows that one pass over the text has."""

    @property
    def seq_len(self) -> int:
        """T: tokens of one window."""

    def read(self, epoch: int, first: int, count: int) -> Batch:
        """Tokens and targets (count, T) of the windows from the first-th of an epoch's order on."""


@dataclass
class Run:
    """All that one run is made of, as `gpt_core.training.setup.open_run` puts it together."""

    settings: Settings
    preset: str
    windows: BatchSource
    train_text: TokenStream
    eval_text: TokenStream | None
    tokenizer: Tokenizer
    parameters: Parameters
    optimizer: Optimizer
    state: TrainingState
    store: CheckpointStore
    resumed_from: Path | None = None
    eval_file: Path | None = None
    warnings: tuple[str, ...] = ()
