"""`gpt-tui config`: print settings, theme and keys as TOML."""

from __future__ import annotations

from argparse import Namespace

from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import as_toml
from gpt_core.errors import EXIT_OK, GptError
from gpt_core.training.setup import text_note, text_sources
from gpt_tui.app import preferences
from gpt_tui.cli.options import config_file, resolve_settings
from gpt_tui.shared.error_log import log_path
from gpt_tui.shared.sanitize import one_line


def config(options: Namespace) -> int:
    """Run `gpt-tui config`: print settings, theme and keys as a TOML file that reproduces them."""
    resolved = resolve_settings(options)
    chosen = preferences.read_preferences(config_file(options))
    own_file = preferences.user_file() or "none, because there is no home folder; set XDG_CONFIG_HOME"
    files = (
        f"# user theme and keys: {one_line(str(own_file))}\n"
        f"# error log: {one_line(str(log_path(resolved.settings.models_dir)))}\n"
    )
    print(files + config_note(resolved.settings) + as_toml(*resolved) + "\n" + preferences.as_toml(chosen), end="")
    return EXIT_OK


def config_note(settings: Settings) -> str:
    """Return the note about the texts of a run with these settings as a comment; "" if there is none."""
    try:
        train, _ = text_sources(settings)
        note = text_note(settings, train)
    except GptError as error:
        note = str(error)
    return f"# note: {one_line(note, 1000)}\n" if note else ""
