"""From a request of the app to a run of the core, with real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core.errors import CheckpointError
from gpt_tui.session.controller import RunRequest
from gpt_tui.session.open_run import open_request
from tests.core.training_samples import tiny_settings, train


def cut_short(path: Path) -> None:
    """What a disk does to a file."""
    path.write_bytes(path.read_bytes()[:-1])


def test_resuming_past_a_damaged_checkpoint_tells_which_one(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=6)
    train(settings)
    cut_short(tmp_path / "models/ckpt_latest.safetensors")
    trainer = open_request(RunRequest(settings, latest=True), lambda *_: None)
    trainer.requests.stop()
    started = next(iter(trainer.events()))
    assert Path(started.resumed_from).name == "best_model.safetensors"  # type: ignore[union-attr]
    (told,) = started.warnings  # type: ignore[union-attr]
    assert told.startswith("passed over: ")
    assert "ckpt_latest.safetensors is damaged" in told


def test_resuming_where_everything_is_damaged_names_all_of_it(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, max_steps=6)
    train(settings)
    for path in (tmp_path / "models").glob("*.safetensors"):
        cut_short(path)
    with pytest.raises(CheckpointError, match=r"damaged: best_model\.safetensors, ckpt_latest\.safetensors"):
        open_request(RunRequest(settings, latest=True), lambda *_: None)
