"""From a request of the app to a trainer of the core."""

from __future__ import annotations

import msgspec

from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.progress import Progress
from gpt_core.training.setup import open_run
from gpt_tui.session.checkpoints import verified_resumable
from gpt_tui.session.controller import RunRequest, TrainerLike


def open_request(request: RunRequest, progress: Progress) -> TrainerLike:
    """Opens the run that is asked for; the newest checkpoint is looked for here, because checking it takes a while.

    A run that goes on with the settings it was saved with has this machine's threads and folder all the same.
    """
    settings, preset_name, resume = request.settings, request.preset_name, request.resume
    info, passed_over = verified_resumable(settings.models_dir) if request.latest else (None, request.passed_over)
    if request.as_saved and resume is not None:
        info = peek_checkpoint(resume)
    if info is not None:
        here = {"threads": settings.threads, "models_dir": settings.models_dir}
        settings, preset_name, resume = msgspec.structs.replace(info.settings, **here), info.preset, info.path
    return open_run(
        settings, preset_name=preset_name, resume=resume, passed_over=passed_over, overwrite=request.overwrite,
        progress=progress,
    )  # fmt: skip
