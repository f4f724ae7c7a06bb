"""The app in a terminal: begun with what the command line says, left with everything saved."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from gpt_core.errors import EXIT_FAILED
from gpt_core.training.request import RunRequest
from gpt_tui.headless.signals import leave_now
from gpt_tui.shared.error_log import log_traceback, log_path
from gpt_tui.shared.interrupts import interrupt_exits

LEAD_S = 10.0  # of the countdown of a first start
FRAMES_PER_S = "120"  # a key waits for the frame after it, another tab for two: 8 ms each, with Textual's 60 it is 17


def run_app(
    request: RunRequest,
    *,
    autostart: bool = False,
    watched: Path | None = None,
    config_file: Path | None = None,
) -> int:
    """Runs the app in the terminal and returns its exit code. A run is stopped and saved however the app ends.

    With `autostart` the requested run starts at once. The run of the folder `watched`, which another process trains, is
    followed. Raises ConfigError where the preferences of the user, or of `config_file`, are not valid.
    """
    os.environ.setdefault("TEXTUAL_FPS", FRAMES_PER_S)  # which Textual reads when it is imported
    with interrupt_exits():
        from textual.theme import BUILTIN_THEMES

        from gpt_tui.app.app import GptApp
        from gpt_tui.app.preferences import read_preferences
        from gpt_tui.app.theme import OWN_THEMES

    preferences = read_preferences(config_file, [*(theme.name for theme in OWN_THEMES), *BUILTIN_THEMES])
    settings = request.settings
    lead_s = 0.0 if autostart or watched else LEAD_S
    app = GptApp(
        settings, request.preset_name, request=request if autostart else None, watched=watched,
        preferences=preferences, lead_s=lead_s, owns_process=True,
    )  # fmt: skip
    try:
        app.run()
    finally:
        if app.forced:
            app.controller.wait_for_save()
            if not app.controller.join(0):
                leave_now(app.return_code or EXIT_FAILED)
        elif not app.controller.join(0):
            _tell("gpt-tui: saving the run before leaving")
            app.controller.stop()
            app.controller.join()
    if app._exception is not None:  # something on the screen fell over; Textual has shown it
        _tell(f"gpt-tui ended by an error {log_traceback(log_path(settings.models_dir), app._exception)}")
    _tell(app.exit_message)
    return app.return_code if app.return_code is not None else EXIT_FAILED


def _tell(words: str) -> None:
    """A line on the terminal, if there still is one."""
    if words:
        with suppress(OSError):
            print(words, file=sys.stderr)
