"""`gpt-tui verify`: verify the checksums of checkpoints."""

from __future__ import annotations

from argparse import Namespace

from gpt_core.errors import EXIT_FAILED, EXIT_OK, DamagedCheckpointError, GptError
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_tui.cli.options import typed_path
from gpt_tui.shared.formatting import integer, scores_text, size
from gpt_tui.shared.sanitize import one_line


def verify(options: Namespace) -> int:
    """Run `gpt-tui verify`: print a line per file.

    The exit code is 0 if all are valid, 1 if one is damaged, else that of the other errors.
    """
    codes = {EXIT_OK}
    for name in options.files:
        try:
            info = verify_checkpoint(typed_path(name, "FILE"))
            scores = f", {scores_text(info.scores)}" if info.scores else ""
            print(one_line(f"{name}: OK, {info.kind}, step {integer(info.step)}{scores}, {size(info.size)}"))
        except GptError as error:
            print(one_line(str(error), 1000))
            codes.add(EXIT_FAILED if isinstance(error, DamagedCheckpointError) else error.exit_code)
    return EXIT_FAILED if EXIT_FAILED in codes else max(codes)
