"""`gpt-tui export`: write a model in the format of another program."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace

from gpt_core.bridges.export import FORMATS, ExportResult, checked_number_type, export_model
from gpt_core.bridges.gguf_export import completion_options
from gpt_core.errors import EXIT_OK
from gpt_core.model.bundle import ModelBundle
from gpt_tui.cli.options import load_model, output_path
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.headless.signals import RunSignals
from gpt_tui.shared.formatting import integer, size
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.standard_streams import say


def export(options: Namespace) -> int:
    """Run `gpt-tui export`: write the file or folder, check it, and print the result."""
    number_type = checked_number_type(options.format, options.type)
    path = output_path(options.path, "PATH")
    model = load_model(options)
    with RunSignals(), ProgressLine() as waiting:  # a signal ends the export, which removes what it has written
        result = export_model(model, options.format, path, number_type=number_type, progress=waiting)
    for line in result_lines(model, options.format, result):
        say(sys.stdout, line)
    return EXIT_OK


def result_lines(model: ModelBundle, format_name: str, result: ExportResult) -> list[str]:
    """Return what was written, the result of the self-check, and how to use it."""
    check, quoted, options = result.check, shlex.quote(str(result.path)), ""
    if format_name == "gguf":
        options = shlex.join(completion_options(model, one_line(model.settings.sample_prompt)))
    return [
        f"exported {model.path}, step {integer(model.step)}, to {result.path}: "
        f"{FORMATS[format_name].title}, {size(result.bytes)}",
        f"checked: {integer(check.ids)} token ids are equal; logits of {check.tokens} tokens differ by at most "
        f"{check.largest_difference:.1e}",
        *result.notes,
        FORMATS[format_name].hint.format(path=str(result.path), quoted=quoted, options=options),
    ]
