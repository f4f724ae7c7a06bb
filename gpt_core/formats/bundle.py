"""Loading of a model from a file, whatever its format."""

from __future__ import annotations

from pathlib import Path

from gpt_core import tokenizers
from gpt_core.formats.checkpoint import read_checkpoint
from gpt_core.model.bundle import ModelBundle


def load_bundle(path: Path | str) -> ModelBundle:
    """Load the model of a checkpoint; the optimizer's state is not read.

    Raises:
        CheckpointError: The file is missing, damaged or not a checkpoint.
        TokenizerError: Its tokenizer is damaged or not registered.
    """
    checkpoint = read_checkpoint(path, moments=False)
    return ModelBundle(
        checkpoint.settings, checkpoint.parameters, tokenizers.from_bytes(checkpoint.tokenizer), checkpoint.state.step,
        checkpoint.preset, Path(path),
    )  # fmt: skip
