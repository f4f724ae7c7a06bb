"""`gpt-tui watch`: the app on its Runs tab, with a run that another process trains."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from gpt_core.config.settings import Settings
from gpt_core.errors import InputError
from gpt_core.training.request import resolve_request
from gpt_tui.cli.train import require_terminal
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.runs.run_finder import folder_of_interest


def watch(options: Namespace) -> int:
    """Follows the run of a folder, and gives the exit code. Nothing there is locked, written or stopped."""
    folder = watched_folder(options.folder)
    require_terminal()
    request = resolve_request(options={"models_dir": str(folder)})
    from gpt_tui.app.launch import run_app

    return run_app(request, watched=folder)


def watched_folder(named: str | None) -> Path:
    """The folder that is meant: without a name the one that is trained in, or else was last. Raises InputError."""
    usual = Path(Settings().models_dir)
    folder = Path(named) if named is not None else folder_of_interest(usual, Path()) or usual
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except (OSError, ValueError):
        is_folder = exists = False
    if is_folder:
        return folder
    if exists:
        raise InputError(f"{one_line(str(folder))} is a file, wanted the folder that a run logs to, such as models")
    raise InputError(
        f"no folder {one_line(str(folder))}; `gpt-tui watch DIR` follows a run that trains with --models-dir DIR"
    )
