"""`gpt-tui serve`: the app in a browser, on this machine alone. Each page that is opened is an app of its own.

The server is textual-serve's, with a door: it listens on the loopback address, and answers nobody but its own page, so
that a page of another site, open in the same browser, cannot press keys in the app.
"""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from typing import Any

from gpt_core.errors import EXIT_OK, GptError, InputError
from gpt_tui.cli.options import SETTING_OPTIONS, requested_run

HOST = "127.0.0.1"
LEAST_PORT, MOST_PORT = 1, 65535


def serve(options: Namespace) -> int:
    """Serves the app until Ctrl+C, and gives the exit code. Raises InputError, or GptError without textual-serve."""
    if not (options.port.isdecimal() and LEAST_PORT <= int(options.port) <= MOST_PORT):
        raise InputError(f"--port: got {options.port!r}, wanted a whole number from {LEAST_PORT} to {MOST_PORT}")
    requested_run(options)  # a mistake in the options is told here, not on the page
    try:
        from gpt_tui.cli.loopback_server import LoopbackServer
    except ModuleNotFoundError as error:
        raise GptError(f"{error.name} is not installed: `pip install 'gpt-tui[serve]'` brings it") from None
    LoopbackServer(shlex.join([sys.executable, "-m", "gpt_tui", *app_words(options)]), HOST, int(options.port)).serve()
    return EXIT_OK


def app_words(options: Namespace) -> list[str]:
    """The options of `gpt-tui` itself, as they were given to `gpt-tui serve`."""
    words = [word for assignment in options.assignments for word in ("--set", assignment)]
    for name in ("preset", "config", *SETTING_OPTIONS):
        value: Any = getattr(options, name)
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None:
            words.append(f"--{name.replace('_', '-')}={value}")
    if options.resume is not None:
        words += ["--resume", options.resume] if options.resume else ["--resume"]
    return words
