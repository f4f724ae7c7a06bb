"""Read and write settings as TOML: all of them, or a preset and the settings that differ from it.

Relative paths in such a file are relative to its folder. Paths are therefore written as absolute ones, or
relative to the folder that the file is written to.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from gpt_core import files
from gpt_core.config.fine_tuning import base_settings
from gpt_core.config.presets import shape_name
from gpt_core.config.settings import GROUP_RATES, LEARNING_RATE, Settings
from gpt_core.config.validation import PATHS, fields, toml_value
from gpt_core.errors import ConfigError, printable
from gpt_core.file_kinds import BYTE_ORDER_MARK, HEAD_BYTES, not_text

MAX_CONFIG_BYTES = 1 << 20


PREFERENCES = ("theme", "guide", "keys")
"""Keys of a config file that are not settings but preferences of the app."""


def read_config(path: Path) -> dict[str, object]:
    """Return the contents of a TOML file, without checking its keys and values. A UTF-8 byte order mark is skipped.

    Raises:
        ConfigError: The file cannot be read, is too large or is not TOML; names the line.
    """
    try:
        with files.open_regular(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except files.NotRegularError as error:
        raise ConfigError(f"{path}: {files.reason(error)} of settings in TOML") from None
    except OSError as error:
        raise ConfigError(f"{path}: {files.reason(error)}; expected a TOML file of settings") from None
    if data is None or len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: got more than {MAX_CONFIG_BYTES:,} bytes, expected a TOML file of settings")
    if found := not_text(data[:HEAD_BYTES]):
        raise ConfigError(f"{path}: got {found.kind}, expected TOML in UTF-8; {found.remedy}")
    try:
        return tomllib.loads(data.removeprefix(BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: got bytes that are not UTF-8 (at line {line}), expected TOML") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}") from None


def as_toml(settings: Settings, preset_name: str, sources: Mapping[str, str]) -> str:
    """Return a TOML file of all settings, with the source and the description of each as a comment.

    It gives the same settings from any folder: paths are absolute, and a path that is the default is commented out.

    Args:
        settings: Settings to write.
        preset_name: Preset that they are based on; "" if unknown.
        sources: Where each value came from, by name (see `gpt_core.config.resolve.Resolved`).
    """
    lines = ["# All settings of the run. Each line: setting = value  # [source] description"]
    lines += ["# Relative paths in a config file are relative to its folder."]
    name = shape_name(settings.shape)
    lines += ["", f"preset = {toml_value(name)}" if name == preset_name else f"# model: {name}"]
    of_groups = ", ".join(dict.fromkeys(sources[key] for key in GROUP_RATES))
    known = {LEARNING_RATE: of_groups} | dict(sources)
    comments = {key: f"[{printable(known[key])}] {fields()[key].description}" for key in written_names(settings)}
    lines += _toml_lines(settings, comments, None)
    if LEARNING_RATE in comments:
        lines += ["", f"# advanced: {', '.join(GROUP_RATES)} override learning_rate per group of parameters"]
    return "\n".join(lines) + "\n"


def changes_as_toml(preset_name: str, settings: Settings, folder: Path) -> str:
    """Return a TOML file of a preset and the settings that differ from it, to be written to `folder`.

    For a run that starts from trained weights, they are those that differ from the preset's defaults for fine-tuning.

    Raises:
        KeyError: The preset is unknown.
    """
    lines = ["# Settings of a run: a preset, and what differs from it.", "", f"preset = {toml_value(preset_name)}"]
    comments = {
        key: fields()[key].description for key in differing(settings, base_settings(preset_name, settings.init_from))
    }
    return "\n".join(lines + _toml_lines(settings, comments, folder)) + "\n"


def differing(settings: Settings, other: Settings) -> list[str]:
    """Return the names of the settings whose values differ, as `written_names` has them."""
    return [key for key in written_names(settings) if getattr(settings, key) != getattr(other, key)]


def written_names(settings: Settings) -> list[str]:
    """Return the names that reproduce settings: `learning_rate`, or the rates of the groups where they differ."""
    omitted = (LEARNING_RATE,) if settings.learning_rate is None else GROUP_RATES
    return [key for key in fields() if key not in omitted]


def _toml_lines(settings: Settings, comments: Mapping[str, str], folder: Path | None) -> list[str]:
    """Return one line per setting that has a comment, under the titles of their groups."""
    lines, written = [], ""
    for key, field in fields().items():
        if key in comments:
            if field.group != written:
                lines += ["", f"# {field.group}"]
                written = field.group
            lines.append(f"{_assignment(key, settings, folder):<30}  # {comments[key]}")
    return lines


def _assignment(key: str, settings: Settings, folder: Path | None) -> str:
    """Return `key = value`; a path absolute, or a relative one that is below `folder` relative to it."""
    value = getattr(settings, key)
    if key not in PATHS or not value:
        return f"{key} = {toml_value(value)}"
    if value == getattr(Settings(), key):
        return f"# {key} = {toml_value(value)}"  # the default is relative to the working folder
    paths = _located(value, folder) if isinstance(value, str) else [_located(name, folder) for name in value]
    return f"{key} = {toml_value(paths)}"


def _located(name: str, folder: Path | None) -> str:
    """Return a path as a file in `folder` names it."""
    path = Path(name).absolute()
    if folder is not None and not os.path.isabs(name) and path.is_relative_to(folder.absolute()):
        path = path.relative_to(folder.absolute())
    return f"./{path}" if str(path).startswith("~") else str(path)
