"""Export of a checkpoint from the Checkpoints tab: the question for a format, the proposed path, and the thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

from gpt_core.bridges.export import FORMATS, ExportResult, export_model
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_tui.session.run_preview import shown_path
from gpt_tui.shared.dialogs import Choice, ChoiceScreen
from gpt_tui.shared.formatting import integer, size
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.checkpoints.file_thread import FileThread

KEYS = {"hf": "h", "gguf": "g", "html": "w"}


def format_question(info: CheckpointInfo) -> ChoiceScreen:
    """Ask for the format of an export."""
    return ChoiceScreen(
        f"Export {one_line(info.path.name)}, step {integer(info.step)}",
        "The weights and the tokenizer are written in the format of another program, and read back to check them.",
        tuple(Choice(KEYS[name], description.title, name) for name, description in FORMATS.items()),
    )


def proposed_path(info: CheckpointInfo, format_name: str) -> str:
    """Return a path in the working folder that does not exist yet."""
    stem, suffix = f"{info.path.stem}-step{info.step}", FORMATS[format_name].suffix or f"-{format_name}"
    names = (f"{stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in count(1))
    return next(name for name in names if not os.path.lexists(name))


def exported_text(result: ExportResult) -> str:
    """Return the notification about a finished export."""
    check = result.check
    equal = f"{integer(check.ids)} token ids equal, logits within {check.largest_difference:.1e}"
    return "; ".join([f"{shown_path(result.path)}, {size(result.bytes)}: {equal}", *result.notes])


class ExportThread(FileThread[ExportResult]):
    """Exports one checkpoint.

    The program waits for this thread when it exits, so that an export that was stopped removes its files.

    Args:
        checkpoint: File to export.
        format_name: Format of the export.
        target: File or folder to create.
        on_progress: Called with the fraction that is written.
        on_end: Called with the result, or with the error as one line.
    """

    def __init__(
        self,
        checkpoint: Path,
        format_name: str,
        target: Path,
        on_progress: Callable[[float], object],
        on_end: Callable[[ExportResult | str], object],
    ) -> None:
        super().__init__("export", f"{target} was not written", on_progress, on_end, daemon=False)
        self.target = target
        self._checkpoint = checkpoint
        self._format_name = format_name

    def work(self) -> ExportResult:
        """Export the checkpoint."""
        bundle = load_bundle(self._checkpoint)
        return export_model(bundle, self._format_name, self.target, progress=lambda _, fraction: self.report(fraction))
