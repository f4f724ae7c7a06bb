"""Launch of the app in a terminal, and its exit after the run is saved."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator, RankError
from gpt_core.errors import EXIT_FAILED
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.shared_runs import SharedRuns
from gpt_tui.headless.runner import with_last_save
from gpt_tui.headless.signals import leave_now
from gpt_tui.shared.error_log import log_path, log_traceback
from gpt_tui.shared.interrupts import interrupt_exits

if TYPE_CHECKING:
    from gpt_tui.app.app import GptApp
    from gpt_tui.new_run.probe import Budget

COUNTDOWN_S = 10.0  # of a first start
FRAMES_PER_S = "120"  # a key is drawn with the next frame: at most 8 ms later, 17 ms at Textual's default of 60


def run_app(
    request: RunRequest,
    *,
    autostart: bool = False,
    watched: Path | None = None,
    config_file: Path | None = None,
    budget: Budget | None = None,
    first_minutes: float = 0.0,
    ranks: Communicator = SINGLE_PROCESS,
) -> int:
    """Run the app in the terminal and return its exit code. However the app ends, its run is stopped and saved.

    Args:
        request: Settings of the next run, and the checkpoint to resume.
        autostart: Start the requested run at once.
        watched: Folder of a run in another process, which the Runs tab follows.
        config_file: File that may hold preferences beside settings.
        budget: Returns the new run for a number of minutes.
        first_minutes: Time budget of the first run that is not started at once, 0 for the settings of the request.
        ranks: Ranks that train together; the others wait for runs (`gpt_core.training.shared_runs.join_runs`).

    Raises:
        ConfigError: The preferences in `user_file` or `config_file` are not valid.
        RankError: A rank has failed or is lost; the run is saved.
    """
    os.environ.setdefault("TEXTUAL_FPS", FRAMES_PER_S)  # read by Textual at its import
    with interrupt_exits():
        from gpt_tui.app.app import GptApp
        from gpt_tui.app.preferences import read_preferences, remember_guide, remember_theme
        from gpt_tui.new_run.probe import Probes
        from gpt_tui.shared.keymap import BROWSER_KEYS

    preferences = read_preferences(config_file)
    if os.environ.get("TEXTUAL_DRIVER"):  # shown by `gpt-tui serve`
        preferences = preferences._replace(keys={**BROWSER_KEYS, **preferences.keys})
    settings = request.settings
    countdown_s = 0.0 if autostart or watched else COUNTDOWN_S
    runs = SharedRuns(ranks, settings) if len(ranks.hosts) > 1 else None
    app = GptApp(
        settings, request.preset_name, request=request if autostart else None, watched=watched,
        preferences=preferences, countdown_s=countdown_s,
        probes=Probes(budget=budget, hosts=tuple(ranks.hosts) if runs else ()),
        first_minutes=0.0 if autostart else first_minutes, remember_theme=remember_theme,
        remember_guide=None if watched else remember_guide, owns_process=True,
        open_run=runs.open_run if runs else open_run, end_run=runs.end_run if runs else None,
        check_ranks=ranks.check if runs else None,
    )  # fmt: skip
    try:
        app.run()
    finally:
        if app.forced:
            app.controller.wait_for_save()
            if not app.controller.join(0):
                leave_now(app.return_code or EXIT_FAILED, ranks.abort)
        elif not app.controller.join(0):
            _print_error("gpt-tui: saving the run before exit")
            app.controller.stop()
            app.controller.join()
    if app._exception is not None:  # an error in the app, which Textual has shown
        _print_error(f"gpt-tui ended with an error {log_traceback(log_path(settings.models_dir), app._exception)}")
    if error := end_of_ranks(app):
        raise error
    _print_error(app.exit_message)
    if runs is not None:
        runs.close()
    return app.return_code if app.return_code is not None else EXIT_FAILED


def end_of_ranks(app: GptApp) -> BaseException | None:
    """Return the error that ends all ranks, with the checkpoint of the run that it has ended; None without one."""
    error, request = app.controller.fatal, app.controller.request
    if isinstance(error, RankError) and request is not None:
        return with_last_save(error, CheckpointStore(request.settings.models_dir).path_of("latest"))
    return error or app.lost


def _print_error(text: str) -> None:
    """Print a line to standard error, if that still exists."""
    if text:
        with suppress(OSError):
            print(text, file=sys.stderr)
