"""Resolve the settings of a run from their sources, and record where each value came from.

Sources, each overriding the one before: the preset (on a resume: the settings of the checkpoint), a TOML file, the
environment variable OVERFIT_TINY, `--set KEY=VALUE`, the other options. On a resume a preset contributes only the model
shape: repeating the original command with `--resume` changes nothing, and a preset of another shape is an error.

`learning_rate` sets the rate of each group of parameters that its source does not name itself; here `--set` and the
other options are one source.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpt_core.config.presets import DEFAULT_PRESET, PRESETS
from gpt_core.config.settings import LEARNING_RATE, ModelShape, Settings
from gpt_core.config.toml_file import read_config
from gpt_core.config.validation import PATHS, check_together, checked, expanded, parsed, unknown_name
from gpt_core.errors import CheckpointError, ConfigError, shown

OVERFIT_VARIABLE = "OVERFIT_TINY"

# Settings that must be the same on a resume as in the checkpoint; all others may change.
MUST_AGREE = (*ModelShape.__struct_fields__, "tokenizer", "document", "optimizer", "init_from")


class Resolved(NamedTuple):
    """Settings in force, the preset they are based on ("" if unknown), and the source of each setting by its name."""

    settings: Settings
    preset: str
    sources: dict[str, str]


class Overrides(NamedTuple):
    """Requested settings, read and checked one by one, before they are applied to a preset or a checkpoint.

    Attributes:
        preset: Name of the requested preset; None for none.
        layers: Source and values, each layer overriding the one before.
    """

    preset: str | None
    layers: tuple[tuple[str, dict[str, object]], ...]

    @property
    def values(self) -> dict[str, object]:
        """The requested values by setting."""
        return {name: value for _, layer in self.layers for name, value in layer.items()}

    def value(self, name: str) -> object:
        """Return the requested value of a setting, its default if none was requested."""
        return self.values.get(name, getattr(Settings(), name))

    def override(self, source: str, values: Mapping[str, object]) -> Overrides:
        """Return the overrides with one more layer. Raises ConfigError for an unknown setting or a bad value."""
        layer = _checked(source, {key: parsed(key, value) for key, value in values.items()})
        return self._replace(layers=(*self.layers, (source, expanded(layer))))

    def apply_to(self, base: Settings | None = None, base_preset: str = "") -> Resolved:
        """Apply the overrides to a preset or to the settings of a checkpoint, and validate the result.

        Args:
            base: Settings of the checkpoint to resume; None for a new run.
            base_preset: Preset recorded in that checkpoint.

        Raises:
            ConfigError: The settings contradict each other.
        """
        values = msgspec.structs.asdict(base if base is not None else Settings())
        sources = dict.fromkeys(values, "default" if base is None else "checkpoint")
        name = self.preset or (DEFAULT_PRESET if base is None else "")
        layers = self.layers
        if name:
            full = msgspec.structs.asdict(Settings()) | PRESETS[name]
            keys = ModelShape.__struct_fields__ if base is not None else PRESETS[name]
            layers = ((f"preset {name}", {key: full[key] for key in keys}), *layers)
        for source, layer in layers:
            values |= layer
            sources |= dict.fromkeys(layer, source)
        settings = msgspec.convert(values, Settings)
        check_together(settings)
        return Resolved(settings, name if base is None else base_preset, sources)


def read_overrides(
    preset: str | None = None,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    foreign: Sequence[str] = (),
) -> Overrides:
    """Read and check every requested setting.

    Args:
        preset: Name given with `--preset`; overrides the `preset` key of the config file.
        config_file: TOML file of settings. Relative paths in it are relative to its folder.
        assignments: KEY=VALUE strings of `--set`.
        options: Values of command-line options by setting name; None for an option that was not given.
        environ: Environment variables.
        foreign: Keys of the config file that are not settings and are skipped.

    Raises:
        ConfigError: Names the setting, the value, the expected values and the source.
    """
    from_file = read_config(config_file) if config_file else {}
    from_file = {key: value for key, value in from_file.items() if key not in foreign}
    named = from_file.pop("preset", None) if preset is None else preset
    from_file.pop("preset", None)
    if named is not None and not (isinstance(named, str) and named in PRESETS):
        raise ConfigError(unknown_name("preset", named, PRESETS))
    layers: list[tuple[str, dict[str, object]]] = []
    if config_file:
        located = _located(_checked(str(config_file), from_file), config_file.parent)
        layers.append((str(config_file), _checked(str(config_file), located)))
    if word := (environ or {}).get(OVERFIT_VARIABLE, ""):
        layers.append((OVERFIT_VARIABLE, _checked(OVERFIT_VARIABLE, {"overfit_tiny": parsed("overfit_tiny", word)})))
    layers += [(source, _checked(source, layer)) for source, layer in _command_line(assignments, options or {})]
    return Overrides(named, tuple((source, expanded(layer)) for source, layer in layers))


def _checked(source: str, layer: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a layer, each checked. Raises ConfigError for an unknown setting or a bad value."""
    return {key: checked(key, value, source) for key, value in layer.items()}


def _command_line(assignments: Sequence[str], options: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
    """Return a layer per `--set` and per other option, `learning_rate` first, so that the rate of a group overrides it.

    Raises:
        ConfigError: An assignment has no `=`.
    """
    layers: list[tuple[str, dict[str, object]]] = []
    for assignment in assignments:
        key, equals, word = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: got no '=', expected KEY=VALUE")
        if key.strip() == "preset":
            raise ConfigError(f"--set {assignment}: a preset is not a setting; name it by --preset {word.strip()}")
        layers.append(("--set", {key.strip(): parsed(key.strip(), word)}))
    for key, value in options.items():
        if value is not None:
            layers.append(("--" + key.replace("_", "-"), {key: parsed(key, value)}))
    return sorted(layers, key=lambda layer: LEARNING_RATE not in layer[1])


def _located(values: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Return the values of a config file in `folder`, with its relative paths made relative to the working folder."""

    def located(name: object) -> str:
        path = str(folder / str(name))
        return f"./{path}" if path.startswith("~") else path  # which would be expanded when it is read again

    paths = {
        key: tuple(map(located, value)) if isinstance(value, tuple) else located(value)
        for key, value in values.items()
        if key in PATHS and value
    }
    return {**values, **paths}


def check_resumable(checkpoint: Settings, requested: Settings, path: str, start: str = "") -> None:
    """Check that a run with the settings `requested` can resume from a checkpoint saved with the settings `checkpoint`.

    Model shape, tokenizer, kind of document, optimizer and the file that the run started from must be the same; every
    other setting may change.

    Args:
        checkpoint: Settings of the checkpoint.
        requested: Settings of the run.
        path: The checkpoint, for the error message.
        start: Absolute path of the file that the run started from: relative ones depend on the working folder.

    Raises:
        CheckpointError: Lists each setting that differs, with both values.
    """
    if start and requested.init_from and os.path.realpath(start) == os.path.realpath(requested.init_from):
        requested = msgspec.structs.replace(requested, init_from=checkpoint.init_from)
    differing = [
        f"{key} is {shown(getattr(checkpoint, key))} in it, {shown(getattr(requested, key))} was requested"
        for key in MUST_AGREE
        if getattr(checkpoint, key) != getattr(requested, key)
    ]
    if differing:
        raise CheckpointError(
            f"{path} cannot be resumed with these settings: {'; '.join(differing)}. "
            "Omit them, or set models_dir to another folder for a new run"
        )
