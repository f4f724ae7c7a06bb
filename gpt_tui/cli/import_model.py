"""`gpt-tui import`: a model of another program as a checkpoint."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from gpt_core.bridges.importing import import_checkpoint
from gpt_core.config.settings import Settings
from gpt_core.errors import EXIT_OK
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_tui.cli.options import output_path, typed_path
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.headless.signals import RunSignals
from gpt_tui.shared.formatting import counted, integer, short, size
from gpt_tui.shared.standard_streams import say


def import_model(options: Namespace) -> int:
    """Run `gpt-tui import`: write the checkpoint and print what it holds and how to use it."""
    output = output_path(options.output, "--output") if options.output is not None else None
    with RunSignals(), ProgressLine() as waiting:  # a signal ends the import, which removes what it has written
        info = import_checkpoint(typed_path(options.source, "DIR|FILE"), output, Path(Settings().models_dir), waiting)
    for line in report(info):
        say(sys.stdout, line)
    return EXIT_OK


def report(info: CheckpointInfo) -> list[str]:
    """Return the lines about an imported model."""
    shape, name = info.settings.shape, str(info.path)
    return [
        f"{name}: {short(parameter_count(shape))} parameters, {size(info.size)}: {counted(shape.layers, 'layer')}, "
        f"width {integer(shape.d_model)}, {counted(shape.num_heads, 'head')}, context {integer(shape.seq_len)}, "
        f"vocabulary {integer(shape.vocab_size)} ({info.settings.tokenizer})"
        + (f", {shape.other_layers}" if shape.other_layers else ""),
        f"chat with it: gpt-tui chat --model {shlex.quote(name)}",
        f"fine-tune it: gpt-tui --init-from {shlex.quote(name)} --train-file FILE",
    ]
