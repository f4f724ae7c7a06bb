"""Folder of the self-test: one that holds nothing but an earlier self-test."""

from __future__ import annotations

import os
from pathlib import Path

from gpt_core.checkpoints.folders import numbered_folders
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import GptError
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.training.events import RunStarted
from gpt_core.training.metrics_log import read_metrics

OVERFIT_FOLDER = "overfit"  # under the models folder


def overfit_folder(models_dir: str) -> Path:
    """Return the first of `overfit`, `overfit-2`, ... that is absent or holds only a self-test.

    Reads headers and logs, so call it in a worker thread.
    """
    return next(folder for folder in numbered_folders(Path(models_dir, OVERFIT_FOLDER)) if _may_be_replaced(folder))


def _may_be_replaced(folder: Path) -> bool:
    """Return True if a folder is absent, or holds only checkpoints and the log of self-tests."""
    if not os.path.isdir(folder):  # unlike `Path.is_dir`, also where the folder above cannot be entered
        return not os.path.lexists(folder)
    store = CheckpointStore(folder)
    if named := store.list_named():
        return all(isinstance(found, CheckpointInfo) and found.settings.overfit_tiny for found in named)
    try:
        started = next((event for event in read_metrics(store.metrics_path) if isinstance(event, RunStarted)), None)
    except GptError:
        return False
    return started is None or started.kind == "overfit-tiny"
