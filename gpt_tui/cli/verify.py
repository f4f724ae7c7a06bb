"""`gpt-tui verify`: verify the checksums of checkpoints."""

from __future__ import annotations

from argparse import Namespace

from gpt_core.errors import EXIT_FAILED, EXIT_OK, GptError
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_tui.cli.options import typed_path
from gpt_tui.shared.formatting import integer, scores_text, size
from gpt_tui.shared.sanitize import one_line


def verify(options: Namespace) -> int:
    """Run `gpt-tui verify`: print a line per file; the exit code is 0 if all are valid."""
    code = EXIT_OK
    for name in options.files:
        try:
            info = verify_checkpoint(typed_path(name))
            scores = f", {scores_text(info.scores)}" if info.scores else ""
            print(one_line(f"{name}: OK, {info.kind}, step {integer(info.step)}{scores}, {size(info.size)}"))
        except GptError as error:
            print(one_line(str(error), 1000))
            code = EXIT_FAILED
    return code
