"""`gpt-tui` and `gpt-tui train`: start the app or a headless run."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from gpt_core.bench.budget_rule import budget_request
from gpt_core.config.resolve import Overrides
from gpt_core.config.settings import ModelShape
from gpt_core.distributed.communicator import SINGLE_PROCESS
from gpt_core.errors import InputError
from gpt_core.training.request import RunRequest
from gpt_tui.cli.main import LAUNCHED
from gpt_tui.cli.options import config_file, requested_run, requested_settings
from gpt_tui.shared.interrupts import interrupt_exits
from gpt_tui.shared.standard_streams import is_terminal

FIRST_BUDGET = 5.0  # minutes of the first run of a session of the app
DECIDED = {*ModelShape.__struct_fields__, "minutes", "max_steps", "max_epochs", "init_from", "overfit_tiny"}
"""Settings that decide the length or the model of a first run."""


def start(options: Namespace) -> int:
    """Start the app or a headless run and return the exit code."""
    if options.json and not options.train_only:
        raise InputError("--json needs --train-only: it prints the events of a headless run")
    ranks = options.ranks or SINGLE_PROCESS
    if ranks.rank:
        from gpt_tui.headless.runner import join_app, run_other_rank

        requested = requested_settings(options).values
        return run_other_rank(requested, ranks) if options.train_only else join_app(requested, ranks)
    if not options.train_only:
        require_terminal()
    with interrupt_exits():
        overrides = requested_settings(options)
        request = requested_run(options, overrides, len(ranks.hosts))
        if options.train_only:
            from gpt_tui.headless.runner import run_headless
        else:
            from gpt_tui.app.launch import run_app
    if options.train_only:
        return run_headless(request, as_json=options.json, ranks=ranks)
    # without such options the app waits for the key that starts a run
    autostart = request.settings.overfit_tiny or request.overwrite or request.resume is not None
    return run_app(
        request, autostart=autostart, config_file=config_file(options),
        budget=partial(budget_run, overrides, ranks=len(ranks.hosts)), first_minutes=first_minutes(overrides),
        ranks=ranks,
    )  # fmt: skip


def budget_run(
    overrides: Overrides,
    minutes: float,
    typed: Mapping[str, str] = MappingProxyType({}),
    preset_name: str = "",
    ranks: int = 1,
) -> RunRequest:
    """Return the new run with a time budget that was chosen in the app, and the requested settings.

    Args:
        overrides: Settings requested on the command line.
        minutes: The time budget.
        typed: Settings that were typed in the set-up screen.
        preset_name: Preset selected there, "" for none.
        ranks: Number of ranks that train together.
    """
    chosen = overrides._replace(preset=preset_name or overrides.preset).override("set-up screen", typed)
    return budget_request(chosen.override("time", {"minutes": minutes}), ranks=ranks)


def first_minutes(overrides: Overrides) -> float:
    """Return the time budget of the first run of a session, 0 if its length or its model was requested."""
    return 0.0 if overrides.preset is not None or overrides.values.keys() & DECIDED else FIRST_BUDGET


def require_terminal(remedy: str = "use `gpt-tui train` instead") -> None:
    """Check that the app can be shown. Where `mpiexec` has started it, use the terminal of `mpiexec`.

    Args:
        remedy: What to do without a terminal, for the message.

    Raises:
        InputError: The app cannot be shown.
    """
    if os.environ.get("TEXTUAL_DRIVER"):
        return  # shown elsewhere: in a browser, by `gpt-tui serve`
    if LAUNCHED & os.environ.keys() and not is_terminal(sys.stdin):
        from gpt_tui.app.launcher_terminal import attach_terminal

        attach_terminal()
        check_terminal_type(remedy)
        return
    streams = {"standard input": sys.stdin, "standard output": sys.stdout, "standard error": sys.stderr}
    missing = [name for name, stream in streams.items() if stream is None or not stream.isatty()]
    if missing:
        raise InputError(f"the app needs a terminal, but {missing[0]} is not one; {remedy}")
    check_terminal_type(remedy)


def check_terminal_type(remedy: str) -> None:
    """Raise InputError if the terminal cannot show a full screen."""
    if os.environ.get("TERM") == "dumb":
        raise InputError(f"the app needs a full-screen terminal, but TERM is dumb; {remedy}")
