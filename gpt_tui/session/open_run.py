"""From a request of the app to a trainer of the core."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gpt_core.formats.checkpoint import Checkpoint, read_checkpoint
from gpt_core.progress import Progress
from gpt_core.training.setup import open_run
from gpt_tui.session.checkpoints import load_resumable
from gpt_tui.session.controller import RunRequest, TrainerLike


def open_request(request: RunRequest, progress: Progress) -> TrainerLike:
    """Opens the run that is asked for; the newest checkpoint is looked for here, because checking it takes a while.

    A run that goes on with the settings it was saved with has this machine's threads and folder all the same.
    """
    settings, preset_name, passed_over = request.settings, request.preset_name, request.passed_over
    resume: Path | Checkpoint | None = request.resume
    if request.latest:
        resume, passed_over = load_resumable(settings.models_dir)
    elif request.as_saved and request.resume is not None:
        resume = read_checkpoint(request.resume)
    if isinstance(resume, Checkpoint):
        here = {"threads": settings.threads, "models_dir": settings.models_dir}
        settings, preset_name = msgspec.structs.replace(resume.settings, **here), resume.preset
    return open_run(
        settings, preset_name=preset_name, resume=resume, passed_over=passed_over, overwrite=request.overwrite,
        progress=progress,
    )  # fmt: skip
