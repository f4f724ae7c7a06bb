"""A checkpoint saved by an earlier version (4702b56, before the optimizer was a setting) resumes to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from gpt_core.formats.checkpoint import Checkpoint, TrainingState, peek_checkpoint, read_checkpoint, write_checkpoint
from tests.core.training_samples import losses, train, write_texts

EARLIER = Path(__file__).parent / "golden/checkpoint_4702b56.safetensors"
# What that version computed when it resumed from the file; other processors may round the last bits differently.
NEXT_LOSSES = [5.330766759812832, 5.268034927546978, 5.222805514931679, 5.144730355590582, 5.090597208589315]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the texts that the checkpoint was trained on."""
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def next_losses(path: Path) -> list[float]:
    """Resume a checkpoint in a folder of its own, and return the losses of the next five steps."""
    folder = path.parent / f"{path.stem}_resumed"
    settings = msgspec.structs.replace(peek_checkpoint(path).settings, max_steps=12, models_dir=str(folder))
    return losses(train(settings, resume=path))


def test_every_tensor_and_every_value_of_the_state_is_read_as_it_was_saved() -> None:
    checkpoint = read_checkpoint(EARLIER)
    assert checkpoint.settings.optimizer == "adamw"
    assert checkpoint.optimizer_state is not None
    tensors = load_file(EARLIER)
    assert tensors.pop("tokenizer").tobytes() == checkpoint.tokenizer
    for prefix, parameters in {"": checkpoint.parameters, **checkpoint.optimizer_state}.items():
        for name, tensor in parameters.tensors.items():
            saved = tensors.pop(f"{prefix}.{name}" if prefix else name)
            assert np.array_equal(tensor.view(np.uint32), saved.view(np.uint32))
    assert not tensors
    assert checkpoint.preset == "custom"  # earlier versions saved the preset that the settings began with
    with safe_open(EARLIER, "np") as file:
        state = json.loads(file.metadata()["state"])
    read = msgspec.to_builtins(checkpoint.state)
    assert {name: read[name] for name in state} == state
    defaults = msgspec.to_builtins(TrainingState(run_id="x"))
    assert all(read[name] == defaults[name] for name in read.keys() - state.keys())
    assert checkpoint.settings.best_metric == "accuracy"


def test_it_resumes_with_the_losses_that_the_earlier_version_computed(folder: Path) -> None:
    path = Path(shutil.copy(EARLIER, folder / "earlier.safetensors"))
    assert next_losses(path) == pytest.approx(NEXT_LOSSES, rel=1e-6)


def test_it_resumes_to_the_bit_as_the_same_checkpoint_saved_now_does(folder: Path) -> None:
    earlier = Path(shutil.copy(EARLIER, folder / "earlier.safetensors"))
    now = folder / "now.safetensors"
    write_checkpoint(now, read_checkpoint(earlier))
    assert b'"format":"pt"' in now.read_bytes()
    assert next_losses(earlier) == next_losses(now)
    trained = [read_checkpoint(folder / f"{name}_resumed/ckpt_latest.safetensors") for name in ("earlier", "now")]
    assert tensor_bytes(trained[0]) == tensor_bytes(trained[1])


def tensor_bytes(checkpoint: Checkpoint) -> list[bytes]:
    """Return weights and optimizer state as bytes."""
    assert checkpoint.optimizer_state is not None
    tensors = (checkpoint.parameters, *checkpoint.optimizer_state.values())
    return [parameters.flat.tobytes() for parameters in tensors]
