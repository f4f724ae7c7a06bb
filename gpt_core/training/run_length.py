"""Length of a run in steps, by its limits on steps and epochs."""

from __future__ import annotations

import math

from gpt_core.training.run import Run


def epoch_start(run: Run) -> int:
    """Return the step at which the current epoch began, or would have with the present text and batch size."""
    window = min(run.state.window, run.texts.windows.windows_per_epoch)
    return run.state.step - math.ceil(window / run.settings.batch_size)


def last_step(run: Run) -> int:
    """Return the step at which a run ends, unless something else ends it before. It is the same after every step."""
    settings, state = run.settings, run.state
    if settings.overfit_tiny:
        limit = settings.overfit_steps
    else:
        windows_left = max(0, run.texts.windows.windows_per_epoch - state.window)
        later_epochs = settings.max_epochs - state.epoch - 1
        rest = math.ceil(windows_left / settings.batch_size) + later_epochs * run.steps_per_epoch
        limit = state.step + max(0, rest)
    return min(settings.max_steps, limit) if settings.max_steps else limit
