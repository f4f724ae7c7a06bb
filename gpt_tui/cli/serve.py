"""`gpt-tui serve`: the app in a browser on this machine, on the loopback address."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from typing import Any

from gpt_core.errors import InputError, MissingPackageError
from gpt_tui.cli.options import SETTING_OPTIONS, requested_run, requested_settings
from gpt_tui.shared.interrupts import interrupt_exits

HOST = "127.0.0.1"
MIN_PORT, MAX_PORT = 1, 65535


def serve(options: Namespace) -> int:
    """Serve the app until Ctrl+C and return the exit code. Raises InputError, or MissingPackageError."""
    if not (options.port.isdecimal() and len(options.port) <= 5 and MIN_PORT <= int(options.port) <= MAX_PORT):
        raise InputError(f"--port: got {options.port!r}, expected a whole number from {MIN_PORT} to {MAX_PORT}")
    # report errors in the options here, not on the page
    models_dir = requested_run(options, requested_settings(options)).settings.models_dir
    try:
        with interrupt_exits():
            from gpt_tui.browser.server import PageServer
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "serve") from None
    app = [sys.executable, "-m", "gpt_tui"]
    later = app_arguments(without_resume(options, models_dir))
    server = PageServer([*app, *app_arguments(options)], [*app, *later], HOST, int(options.port))
    return asyncio.run(server.serve_until_stopped(server.listen()))


def without_resume(options: Namespace, models_dir: str) -> Namespace:
    """Return the options of the apps after the first: another resume of the same file would replace newer steps.

    Args:
        options: Options of `gpt-tui serve`.
        models_dir: Folder of the run to resume, in which such an app offers the newest checkpoint.
    """
    return (
        options if options.resume is None else Namespace(**{**vars(options), "resume": None, "models_dir": models_dir})
    )


def app_arguments(options: Namespace) -> list[str]:
    """Return the options of `gpt-tui serve` as options of `gpt-tui`."""
    words = [word for assignment in options.assignments for word in ("--set", assignment)]
    for name in ("preset", "config", *SETTING_OPTIONS):
        value: Any = getattr(options, name)
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif isinstance(value, list):
            words += [f"--{name.replace('_', '-')}={word}" for word in value]
        elif value is not None:
            words.append(f"--{name.replace('_', '-')}={value}")
    if options.resume is not None:
        words += ["--resume", options.resume] if options.resume else ["--resume"]
    return words
