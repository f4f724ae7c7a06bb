"""Export of a checkpoint from the Checkpoints tab: the question for a format, the proposed path, and the thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from gpt_core.bridges.export import FORMATS, ExportResult, export_model
from gpt_core.errors import GptError
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_tui.session.run_preview import shown_path
from gpt_tui.shared.dialogs import Choice, ChoiceScreen
from gpt_tui.shared.formatting import integer, size
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.thread_priority import CHECKING, lower_priority

KEYS = {"hf": "h", "gguf": "g", "html": "w"}
PROGRESS_STEP = 0.05


def format_question(info: CheckpointInfo) -> ChoiceScreen:
    """Ask for the format of an export."""
    return ChoiceScreen(
        f"Export {one_line(info.path.name)}, step {integer(info.step)}",
        "The weights and the tokenizer are written in the format of another program, and read back to check them.",
        tuple(Choice(KEYS[name], description.title, name) for name, description in FORMATS.items()),
    )


def proposed_path(info: CheckpointInfo, format_name: str) -> str:
    """Return a path in the working folder at which there is nothing yet."""
    stem, suffix = f"{info.path.stem}-step{info.step}", FORMATS[format_name].suffix or f"-{format_name}"
    names = (f"{stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in count(1))
    return next(name for name in names if not (Path(name).is_symlink() or Path(name).exists()))


def exported_text(result: ExportResult) -> str:
    """Return the notification about a finished export."""
    check = result.check
    equal = f"{integer(check.ids)} token ids equal, logits within {check.largest_difference:.1e}"
    return "; ".join([f"{shown_path(result.path)}, {size(result.bytes)}: {equal}", *result.notes])


class ExportStoppedError(Exception):
    """Raised inside an export that was stopped."""


class ExportThread(threading.Thread):
    """Exports one checkpoint at low priority.

    The program waits for this thread when it exits, so that an export that was stopped removes its files.

    Args:
        checkpoint: File to export.
        format_name: Format of the export.
        target: File or folder to create.
        on_progress: Called with the fraction that is done.
        on_end: Called with the result, or with the error as one line.

    Both are called in this thread, and not after `stop`.
    """

    def __init__(
        self,
        checkpoint: Path,
        format_name: str,
        target: Path,
        on_progress: Callable[[float], object],
        on_end: Callable[[ExportResult | str], object],
    ) -> None:
        super().__init__(name="export")
        self.target = target
        self._checkpoint = checkpoint
        self._format_name = format_name
        self._on_progress = on_progress
        self._on_end = on_end
        self._stopped = threading.Event()
        self._reported = 0.0

    def stop(self) -> None:
        """Stop at the next part of the file without a report; nothing is left of it."""
        self._stopped.set()

    def run(self) -> None:
        """Export the checkpoint."""
        lower_priority(CHECKING)
        outcome: ExportResult | str
        try:
            bundle = load_bundle(self._checkpoint)
            outcome = export_model(bundle, self._format_name, self.target, progress=self._progressed)
        except ExportStoppedError:
            return
        except GptError as error:
            outcome = str(error)
        except Exception as unexpected:
            outcome = f"{self.target} was not written: {type(unexpected).__name__}: {unexpected}"
        if not self._stopped.is_set():
            with suppress(RuntimeError):  # the app has ended
                self._on_end(outcome)

    def _progressed(self, _activity: str, fraction: float) -> None:
        if self._stopped.is_set():
            raise ExportStoppedError
        if fraction - self._reported >= PROGRESS_STEP:
            self._reported = fraction
            with suppress(RuntimeError):
                self._on_progress(fraction)
