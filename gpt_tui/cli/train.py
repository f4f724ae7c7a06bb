"""`gpt-tui` without a command: from its options to a run, in the app or headless."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.resolve import Resolved
from gpt_core.errors import CheckpointError, InputError
from gpt_core.formats.checkpoint import Checkpoint, peek_checkpoint, read_checkpoint
from gpt_core.text.corpus import require_text
from gpt_tui.cli.options import report_damaged, resolve_settings
from gpt_tui.shared.interrupts import ending_at_once


def start(options: Namespace) -> int:
    """Train, in the app or headless, and give the exit code."""
    if options.json and not options.train_only:
        raise InputError("--json prints the events of a headless run: it needs --train-only")
    if not options.train_only:
        require_terminal()
    with ending_at_once():
        resolved, resume, passed_over = resolve_run(options)
        if options.train_only:
            from gpt_tui.headless.runner import run_headless
        else:
            from gpt_tui.app.launch import run_app
    if options.train_only:
        return run_headless(
            resolved, resume=resume, passed_over=passed_over, overwrite=options.overwrite, as_json=options.json
        )
    path = resume.path if isinstance(resume, Checkpoint) else resume  # the app loads it when it opens the run
    # alone, `gpt-tui` waits for the key that starts; where a certain run is asked for, that one begins
    asked_for = resolved.settings.overfit_tiny or options.overwrite
    config_file = Path(options.config) if options.config is not None else None
    return run_app(
        resolved, resume=path, passed_over=passed_over, overwrite=options.overwrite, autostart=asked_for,
        config_file=config_file,
    )  # fmt: skip


def require_terminal() -> None:
    """Raise InputError where the app cannot be shown."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return  # it is shown elsewhere: in a browser, by `gpt-tui serve`
    streams = {"standard input": sys.stdin, "standard output": sys.stdout, "standard error": sys.stderr}
    lost = [name for name, stream in streams.items() if stream is None or not stream.isatty()]
    if lost:
        raise InputError(f"the app needs a terminal, and {lost[0]} is none; `gpt-tui --train-only` trains without one")
    if os.environ.get("TERM") == "dumb":
        raise InputError("the app needs a terminal that can draw, and TERM is dumb; `gpt-tui --train-only` needs none")


class AskedFor(NamedTuple):
    """The run that is asked for: its settings, the checkpoint that it goes on from, if it does, and a line for each
    damaged one that this one stands in for."""

    resolved: Resolved
    resume: Path | Checkpoint | None = None
    passed_over: tuple[str, ...] = ()


def resolve_run(options: Namespace) -> AskedFor:
    """The run that is asked for.

    A resumed run keeps its checkpoint's settings, but for those that the options name, and stays in the folder that
    its checkpoint lies in unless another is named. A bound on the steps that it has reached already binds no more.
    Raises ConfigError or CheckpointError, and CorpusError where a text that is named is no file that can be read.
    """
    asked_for = settings_of_run(options)
    settings = asked_for.resolved.settings
    for name in filter(None, (settings.train_file, settings.eval_file)):
        require_text(Path(name))
    return asked_for


def settings_of_run(options: Namespace) -> AskedFor:
    """What the options and, of a resumed run, its checkpoint say. Raises ConfigError or CheckpointError."""
    resolved = resolve_settings(options)
    if options.resume is None:
        return AskedFor(resolved)
    passed_over: tuple[str, ...] = ()
    if options.resume:
        path = Path(options.resume)
        found = read_checkpoint(path) if options.train_only else peek_checkpoint(path)
    else:
        found, passed_over = load_newest(Path(resolved.settings.models_dir))
        assert found.path is not None
        path = found.path
    left = found.settings.max_steps if found.step < found.settings.max_steps else 0
    settings = msgspec.structs.replace(found.settings, models_dir=str(path.parent), max_steps=left)
    resume = found if isinstance(found, Checkpoint) else path
    return AskedFor(resolve_settings(options, Resolved(settings, found.preset, {})), resume, passed_over)


def load_newest(folder: Path) -> tuple[Checkpoint, tuple[str, ...]]:
    """Load the newest checkpoint that can be resumed; also return a line for each damaged one that was skipped.

    Raises CheckpointError if there is none.
    """
    loaded = CheckpointStore(folder).load_for_resume()
    if loaded.checkpoint is None:
        report_damaged(loaded)  # otherwise the run reports them as warnings
        raise CheckpointError(
            f"nothing to resume in {folder}: it holds no valid checkpoint; name one with --resume FILE, another folder "
            "with --models-dir, or start a new run without --resume"
        )
    return loaded.checkpoint, tuple(damaged.error for damaged in loaded.damaged)
