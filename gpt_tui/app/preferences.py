"""Preferences: theme, keys, and the notes of a first run.

They are read from `config.toml` in the configuration folder (`user_file`), and from a `--config` file, which
takes precedence:

    theme = "nord"                 # a theme picked in the palette is remembered here
    guide = "off"                  # no notes that explain a run; else the names of those that were shown

    [keys]
    "train.start" = "ctrl+s"       # ids as listed by `gpt-tui config`; several keys as "f2,t"
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from gpt_core.config.toml_file import PREFERENCES, read_config
from gpt_core.errors import ConfigError, printable
from gpt_core.files import replace_file
from gpt_core.home import home_folder
from gpt_tui.shared.keymap import KEYS, NAMED_KEYS, SCREENS, TABS, is_key, places_of

THEMES = (
    "gpt-night", "gpt-day", "textual-dark", "textual-light", "nord", "gruvbox", "catppuccin-mocha", "dracula",
    "tokyo-night", "monokai", "flexoki", "catppuccin-latte", "catppuccin-frappe", "catppuccin-macchiato",
    "solarized-light", "solarized-dark", "rose-pine", "rose-pine-moon", "rose-pine-dawn", "atom-one-dark",
    "atom-one-light", "ansi-dark", "ansi-light",
)  # fmt: skip
"""Names of the themes of the app and of Textual, which commands without the app do not import"""


class Preferences(NamedTuple):
    """Theme, keys, and notes of a first run.

    Attributes:
        theme: Name of a theme, "" for the default one.
        keys: Textual's names of keys, by the id of their action.
        guide: "off" for no notes that explain a run, else the names of those that were shown, separated by commas.
    """

    theme: str = ""
    keys: Mapping[str, str] = {}
    guide: str = ""


NO_PREFERENCES = Preferences()


def user_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return `gpt-tui/config.toml` in `$XDG_CONFIG_HOME`, else in `~/.config`, or in `%APPDATA%` on Windows.

    None for a user without a home folder.
    """
    if folder := environ.get("XDG_CONFIG_HOME"):
        return Path(folder, "gpt-tui", "config.toml")
    if sys.platform == "win32" and (folder := environ.get("APPDATA")):
        return Path(folder, "gpt-tui", "config.toml")
    home = home_folder(environ)
    return home / ".config" / "gpt-tui" / "config.toml" if home is not None else None


def read_preferences(config_file: Path | None, environ: Mapping[str, str] = os.environ) -> Preferences:
    """Return the preferences in `user_file`, overridden by those of a `--config` file.

    Args:
        config_file: The `--config` file, None without one.
        environ: Environment variables.

    Raises:
        ConfigError: A file has an unknown name, theme or key, or gives two actions one key.
    """
    theme = guide = ""
    keys: dict[str, str] = {}
    own = user_file(environ)
    for path, is_own in ((own, True), (config_file, False)):
        if path is None or (is_own and not os.path.exists(path)):  # False also where the folder is not readable
            continue
        table = read_config(path)
        if is_own and (unknown := [name for name in table if name not in PREFERENCES]):
            raise ConfigError(
                f"{path}: got {printable(unknown[0])}, expected only theme, guide and [keys]; put the settings of a "
                "run into a file for --config"
            )
        theme = _theme(table.get("theme", theme), path)
        guide = _guide(table.get("guide", guide), path)
        keys |= _keys(table.get("keys", {}), path)
        _check_apart(keys, path)
    return Preferences(theme, keys, guide)


def remember_theme(name: str, environ: Mapping[str, str] = os.environ) -> None:
    """Set the theme in `user_file`; see `_remember`."""
    _remember("theme", name, environ)


def remember_guide(value: str, environ: Mapping[str, str] = os.environ) -> None:
    """Set in `user_file` which notes were shown, or "off"; see `_remember`."""
    _remember("guide", value, environ)


def _remember(name: str, value: str, environ: Mapping[str, str]) -> None:
    """Set a preference in `user_file` and leave its other lines unchanged.

    Raises:
        ConfigError: The file cannot be read, is not TOML or names the preference in another way, or there is no
            home folder.
        OSError: The file cannot be written.
    """
    path = user_file(environ)
    if path is None:
        raise ConfigError("there is no home folder; set XDG_CONFIG_HOME")
    path = Path(os.path.realpath(path))  # a link stays one
    before: dict[str, object] = {}
    text = ""
    if path.exists():
        before = read_config(path)
        text = path.read_bytes().decode("utf-8-sig")
    first_table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    top = text[: first_table.start()] if first_table else text
    line = f'{name} = "{value}"'
    changed, count = re.subn(rf"^[ \t]*{name}[ \t]*=[^\r\n]*", line, top, count=1, flags=re.MULTILINE)
    changed = (changed if count else f"{line}\n{top}") + text[len(top) :]
    if _parsed(changed) != before | {name: value}:
        raise ConfigError(f"{path}: could not change its {name}; set it there")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, [changed.encode()])


def _parsed(text: str) -> dict[str, object] | None:
    """Return the table of a TOML text, None if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _theme(name: object, path: Path) -> str:
    if isinstance(name, str) and name in ("", *THEMES):
        return name
    raise ConfigError(f"{path}: theme: got {name!r}, expected one of {', '.join(sorted(THEMES))}{_near(name, THEMES)}")


def _guide(value: object, path: Path) -> str:
    if isinstance(value, str):
        return value
    raise ConfigError(f'{path}: guide: got {value!r}, expected "off", or the names of the notes that were shown')


def _keys(table: object, path: Path) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: keys: got {table!r}, expected a table [keys]")
    ids = [key.id for key in KEYS]
    for name, value in table.items():
        if name not in ids:
            raise ConfigError(f"{path}: keys: unknown key {name!r}{_near(name, ids)}; `gpt-tui config` lists them")
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else [""]
        if unknown := [part for part in parts if not is_key(part)]:
            lower = unknown[0].lower()
            near = f"; did you mean {lower}?" if is_key(lower) else _near(lower, NAMED_KEYS)
            raise ConfigError(
                f'{path}: keys: {name}: got {value!r}, expected the name of a key, such as "ctrl+s"{near}'
            )
    return {name: ",".join(part.strip() for part in value.split(",")) for name, value in table.items()}


def _check_apart(keys: Mapping[str, str], path: Path) -> None:
    """Raise ConfigError if a changed key has two actions on one tab."""
    changed = {key.id for key in KEYS if keys.get(key.id, key.keys) != key.keys}
    for view in (*TABS, *SCREENS):
        taken: dict[str, str] = {}
        for key in KEYS:
            if key.place in (*places_of(view), "everywhere") and not (view in SCREENS and key.action.startswith("go(")):
                for name in keys.get(key.id, key.keys).split(","):
                    other = taken.setdefault(name, key.id)
                    if other != key.id and changed & {key.id, other}:
                        raise ConfigError(
                            f"{path}: keys: {name!r} is both {other} and {key.id} on one tab; choose another key for "
                            "one of them"
                        )


def _near(name: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def as_toml(preferences: Preferences) -> str:
    """Return the preferences as the end of a `--config` file; keys that are not changed are commented out."""
    lines = ["# theme and keys of the app; remove the # to change one"]
    lines += [f'guide = "{preferences.guide}"' if preferences.guide else '# guide = "off"']
    lines += [f'theme = "{preferences.theme}"' if preferences.theme else '# theme = "gpt-night"', "", "[keys]"]
    for key in KEYS:
        changed = key.id in preferences.keys
        line = f'"{key.id}" = "{preferences.keys.get(key.id, key.keys)}"'
        lines.append(f"{'' if changed else '# '}{line:<{38 if changed else 36}}  # {key.help}")
    return "\n".join(lines) + "\n"
