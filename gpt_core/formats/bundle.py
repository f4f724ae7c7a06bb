"""Loading of a model from a file, whatever its format."""

from __future__ import annotations

from pathlib import Path

from gpt_core import tokenizers
from gpt_core.formats.checkpoint import Checkpoint, read_checkpoint
from gpt_core.model.bundle import ModelBundle


def load_bundle(path: Path | str) -> ModelBundle:
    """Load the model of a checkpoint; the optimizer's state is not read.

    Raises:
        CheckpointError: The file is missing, damaged or not a checkpoint.
        TokenizerError: Its tokenizer is damaged or not registered.
    """
    return bundle_of(read_checkpoint(path, optimizer_state=False))


def bundle_of(checkpoint: Checkpoint) -> ModelBundle:
    """Return the model of a checkpoint that was read already.

    Raises:
        TokenizerError: Its tokenizer is damaged or not registered.
    """
    return ModelBundle(
        checkpoint.settings, checkpoint.parameters, tokenizers.from_bytes(checkpoint.tokenizer), checkpoint.step,
        checkpoint.preset, checkpoint.state.scores, checkpoint.path, checkpoint.corpus_sha256,
        checkpoint.state.eval_sha256,
    )  # fmt: skip
