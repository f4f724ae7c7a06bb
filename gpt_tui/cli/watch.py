"""`gpt-tui watch`: show a run of another process on the Runs tab."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import Settings
from gpt_core.errors import InputError
from gpt_core.files import exists
from gpt_core.run_files import METRICS
from gpt_core.training.request import resolve_request
from gpt_tui.cli.options import typed_path
from gpt_tui.cli.train import require_terminal
from gpt_tui.session.run_finder import folder_of_interest
from gpt_tui.shared.interrupts import interrupt_exits
from gpt_tui.shared.sanitize import one_line


def watch(options: Namespace) -> int:
    """Follow the run in a folder and return the exit code. The folder is only read."""
    folder = watched_folder(options.folder)
    log = folder / METRICS
    require_terminal(f"read {one_line(str(log))} without a terminal" if exists(log) else "run it in one")
    request = resolve_request(read_overrides(options={"models_dir": str(folder)}))
    with interrupt_exits():
        from gpt_tui.app.launch import run_app

    return run_app(request, watched=folder)


def watched_folder(named: str | None) -> Path:
    """Return the named folder, else the one in training, else the last one. Raises InputError."""
    usual = Path(Settings().models_dir)
    folder = typed_path(named, "DIR") if named is not None else folder_of_interest(usual, Path()) or usual
    try:
        is_folder, is_there = folder.is_dir(), folder.exists()
    except (OSError, ValueError):
        is_folder = is_there = False
    if is_folder:
        return folder
    if is_there:
        raise InputError(f"{one_line(str(folder))} is a file, expected the models folder of a run")
    raise InputError(f"no folder {one_line(str(folder))}; name the models folder of a run: `gpt-tui watch DIR`")
