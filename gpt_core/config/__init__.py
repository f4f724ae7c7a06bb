"""Configuration of a run: settings and their bounds, presets, resolving from several sources, TOML files.

The names below are the public ones; `gpt_core.config.validation` has the checks that forms and file readers need.
"""

from gpt_core.config.presets import DEFAULT_PRESET, PRESETS, preset
from gpt_core.config.resolve import Resolved, check_resumable, resolve
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.config.toml_file import as_toml, changes_as_toml, read_config

__all__ = [
    "DEFAULT_PRESET", "PRESETS", "ModelShape", "Resolved", "Settings", "as_toml", "changes_as_toml", "check_resumable",
    "preset", "read_config", "resolve",
]  # fmt: skip
