"""Files of the set-up screen: validation of paths, and saving a config file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import changes_as_toml
from gpt_core.config.validation import TEXTS
from gpt_core.errors import ConfigError
from gpt_core.files import reason, replace_file
from gpt_core.text.file_search import is_pattern

DEFAULT_NAME = "gpt-tui.toml"


def path_problem(name: str, path: str) -> str:
    """Return what is wrong with the path of a setting, "" if nothing; `models_dir` need not exist.

    Folders of texts and patterns are not searched, as this is called with each key.
    """
    kind = {"models_dir": "folder", "init_from": "checkpoint"}.get(name, "text file, a folder or a pattern")
    if name in TEXTS and is_pattern(path):
        return ""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return _problem_of_writing(path) if name == "models_dir" else f"no such file; expected a {kind}"
    except (OSError, ValueError) as error:
        return f"{reason(error)}; expected a {kind}"
    if name == "models_dir":
        is_folder = stat.S_ISDIR(found.st_mode)
        return _problem_of_writing(path) if is_folder else "not a folder; expected a folder for checkpoints"
    if stat.S_ISDIR(found.st_mode) and name not in TEXTS:
        return f"is a folder; expected a {kind}"
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return f"not a regular file; expected a {kind}"
    return "" if os.access(path, os.R_OK) else f"no permission to read it; expected a readable {kind}"


def _problem_of_writing(path: str) -> str:
    """Return why nothing can be written to a folder that exists or is created with its missing parents."""
    try:
        absolute = Path(path).absolute()
    except FileNotFoundError:
        return "the folder that gpt-tui was started in was deleted; expected an absolute path"
    existing = next(folder for folder in (absolute, *absolute.parents) if folder.exists())
    can_write = os.access(existing, os.W_OK | os.X_OK)
    return "" if can_write else f"no permission to write to {existing}; expected a folder for checkpoints"


def save_config(path: Path, preset_name: str, settings: Settings, *, overwrite: bool) -> None:
    """Write a config file atomically: the preset, and the settings that differ from it.

    Raises:
        ConfigError: The file exists and `overwrite` is False, or it cannot be written.
    """
    if not overwrite and os.path.lexists(path):
        raise ConfigError(f"{path} already exists; choose another name")
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; expected the name of a file")
        replace_file(path, [changes_as_toml(preset_name, settings, path.parent).encode()])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be written: {reason(error)}; choose another name") from None
