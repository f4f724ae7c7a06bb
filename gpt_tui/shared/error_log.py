"""Where errors that nobody foresaw are kept whole: a text file beside the checkpoints."""

from __future__ import annotations

import traceback
from datetime import datetime
from pathlib import Path

LOG_FILE = "gpt-tui.log"


def log_path(models_dir: str) -> Path:
    """The file for a models folder."""
    return Path(models_dir) / LOG_FILE


def keep_traceback(path: Path, error: BaseException) -> str:
    """Appends an error's traceback to the file. Says where it is, in brackets, or why it is not there; never raises."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n{datetime.now().isoformat(timespec='seconds')}\n")
            log.writelines(traceback.format_exception(error))
    except OSError as why:
        return f"(no details: {path} cannot be written: {why.strerror})"
    return f"(details in {path})"
