"""`gpt-tui config`: print settings, theme and keys as TOML."""

from __future__ import annotations

import sys
from argparse import Namespace

from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import as_toml
from gpt_core.errors import EXIT_OK, ConfigError, GptError
from gpt_core.training.setup import text_note, text_sources
from gpt_tui.app import preferences
from gpt_tui.cli.options import config_file, resolve_settings
from gpt_tui.shared.error_log import log_path
from gpt_tui.shared.sanitize import one_line


def config(options: Namespace) -> int:
    """Run `gpt-tui config`: print settings, theme and keys as a TOML file that reproduces them.

    If the preferences are not valid, the default ones are printed: the list is what they are corrected by.
    """
    resolved = resolve_settings(options)
    chosen, code = preferences.NO_PREFERENCES, EXIT_OK
    try:
        chosen = preferences.read_preferences(config_file(options))
    except ConfigError as error:
        print(f"gpt-tui: {one_line(str(error), 2000)}; below are the default theme and keys", file=sys.stderr)
        code = error.exit_code
    own_file = preferences.user_file() or "none, because there is no home folder; set XDG_CONFIG_HOME"
    files = (
        f"# user theme and keys: {one_line(str(own_file))}\n"
        f"# error log: {one_line(str(log_path(resolved.settings.models_dir)))}\n"
    )
    print(files + config_note(resolved.settings) + as_toml(*resolved) + "\n" + preferences.as_toml(chosen), end="")
    return code


def config_note(settings: Settings) -> str:
    """Return the note about the texts of a run with these settings as a comment; "" if there is none."""
    try:
        train, _ = text_sources(settings)
        note = text_note(settings, train)
    except GptError as error:
        note = str(error)
    return f"# note: {one_line(note, 1000)}\n" if note else ""
