"""The files of the set-up screen: whether a path that is typed can be used, and the config file that is saved."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import changes_as_toml
from gpt_core.errors import ConfigError
from gpt_core.files import reason, replace_file

DEFAULT_NAME = "gpt-tui.toml"


def path_problem(name: str, path: str) -> str:
    """What is wrong with the path typed for a setting, or ""; a folder for checkpoints need not exist."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "" if name == "models_dir" else "there is no such file; wanted a text file"
    except (OSError, ValueError) as error:
        return f"{reason(error)}; wanted a {'folder' if name == 'models_dir' else 'text file'}"
    if name == "models_dir":
        return "" if stat.S_ISDIR(found.st_mode) else "is no folder; wanted one to save in"
    if stat.S_ISDIR(found.st_mode):
        return "is a folder; wanted a text file"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file; wanted a text file"
    return "" if os.access(path, os.R_OK) else "may not be read; wanted a text file that may"


def config_exists(path: Path) -> bool:
    """Whether something of that name is there already."""
    return os.path.lexists(path)


def save_config(path: Path, preset_name: str, settings: Settings, *, overwrite: bool) -> None:
    """Writes a config file: the preset, and what differs from it. The whole file appears at once, or none.

    Raises ConfigError, also for a file that is there unless it may be overwritten.
    """
    if not overwrite and config_exists(path):
        raise ConfigError(f"{path} is there already; choose another name")
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; wanted the name of a file")
        replace_file(path, [changes_as_toml(preset_name, settings).encode()])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be written: {reason(error)}; choose another name") from None
