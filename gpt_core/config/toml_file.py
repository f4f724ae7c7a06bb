"""Settings as a TOML file that gives the same settings again: all of them, or a preset and what differs from it."""

from __future__ import annotations

from collections.abc import Mapping

from gpt_core.config.resolve import GROUPS, Resolved, fields
from gpt_core.config.settings import Settings, preset
from gpt_core.errors import printable


def as_toml(resolved: Resolved) -> str:
    """Every setting as a TOML file that gives the same settings again, with comments that say source and meaning."""
    lines = ["# The settings in force. Each line: setting = value  # [where it came from] what it means"]
    if resolved.preset:
        lines += ["", f"preset = {_toml(resolved.preset)}"]
    meanings = {key: f"[{printable(resolved.sources[key])}] {field.description}" for key, field in fields().items()}
    return "\n".join(lines + _toml_lines(resolved.settings, meanings)) + "\n"


def changes_as_toml(preset_name: str, settings: Settings) -> str:
    """A TOML file that gives these settings: the preset, and what differs from it. Raises KeyError for the preset."""
    lines = ["# Settings of a run: a preset, and what differs from it.", "", f"preset = {_toml(preset_name)}"]
    meanings = {key: fields()[key].description for key in differing(settings, preset(preset_name))}
    return "\n".join(lines + _toml_lines(settings, meanings)) + "\n"


def differing(settings: Settings, other: Settings) -> list[str]:
    """The names of the settings whose values are not the same."""
    return [key for key in fields() if getattr(settings, key) != getattr(other, key)]


def _toml_lines(settings: Settings, meanings: Mapping[str, str]) -> list[str]:
    """The settings that have a meaning here, a line each, under the names of their groups."""
    lines, group, written = [], "", ""
    for key in fields():
        group = GROUPS.get(key, group)
        if key in meanings:
            if group != written:
                lines += ["", f"# {group}"]
                written = group
            lines.append(f"{f'{key} = {_toml(getattr(settings, key))}':<30}  # {meanings[key]}")
    return lines


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted) + '"'
