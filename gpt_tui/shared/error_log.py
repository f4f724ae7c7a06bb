"""Log of unexpected errors: full tracebacks in a text file next to the checkpoints."""

from __future__ import annotations

import traceback
from datetime import datetime
from pathlib import Path

LOG_FILE = "gpt-tui.log"


def log_path(models_dir: str) -> Path:
    """Return the path of the error log of a models folder."""
    return Path(models_dir) / LOG_FILE


def log_traceback(path: Path, error: BaseException) -> str:
    """Append the traceback of an error to the log. Never raises.

    Returns:
        Where the details are, in brackets, or why they could not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n{datetime.now().isoformat(timespec='seconds')}\n")
            log.writelines(traceback.format_exception(error))
    except OSError as why:
        return f"(no details: {path} cannot be written: {why.strerror})"
    return f"(details in {path})"
