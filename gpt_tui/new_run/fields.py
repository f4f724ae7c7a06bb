"""The settings as fields of text for the set-up screen: their order, what their texts mean, what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import inspect

from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.settings import Settings
from gpt_core.config.validation import check_together, checked, expected, fields, groups, parsed
from gpt_core.errors import ConfigError

# Groups of settings in the order of the form: those that are changed most often first.
GROUP_ORDER = (
    "model shape", "text", "batches", "stopping", "learning rates", "system", "evaluation and saving", "optimizer",
    "generation", "self-test",
)  # fmt: skip
KEPT = ("train_file", "eval_file", "models_dir", "threads", "seed")  # what choosing a preset leaves as it is
PATHS = ("train_file", "eval_file", "models_dir")

PathProblem = Callable[[str, str], str]  # of a setting's name and the path typed: what is wrong with it, or ""


class SetupField(NamedTuple):
    """One setting. `group` is the title above it, if it begins one; `choices` are all it may be, if these are few."""

    name: str
    group: str
    choices: tuple[str, ...]


class Checked(NamedTuple):
    """What the texts mean: settings, or for each field that is wrong a line."""

    settings: Settings | None
    problems: dict[str, str]


def setup_fields() -> list[SetupField]:
    """Return every setting that can be changed, in the order of the form: those with a single choice are left out."""
    names = {group: [name for name in members if len(choices_of(name)) != 1] for group, members in groups().items()}
    return [
        SetupField(name, group if name == names[group][0] else "", choices_of(name))
        for group in GROUP_ORDER
        for name in names[group]
    ]


def choices_of(name: str) -> tuple[str, ...]:
    """The values of a setting that has only a few; none where it is typed."""
    field = fields()[name]
    return ("false", "true") if isinstance(field.kind, inspect.BoolType) else field.choices()


def text_of(value: object) -> str:
    """A value as it is typed: 0.003, 1e-08, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def texts_of(settings: Settings) -> dict[str, str]:
    """What the fields say for these settings."""
    return {name: text_of(value) for name, value in msgspec.structs.asdict(settings).items()}


def with_preset(texts: Mapping[str, str], preset_name: str) -> dict[str, str]:
    """What the fields say once a preset is chosen."""
    return texts_of(preset(preset_name)) | {name: texts[name] for name in KEPT}


def check(texts: Mapping[str, str], path_problem: PathProblem) -> Checked:
    """What the fields mean, each for itself and then together."""
    values: dict[str, object] = {}
    problems: dict[str, str] = {}
    for name, text in texts.items():
        try:
            values[name] = checked(name, parsed(name, text))
        except ConfigError as error:
            problems[name] = str(error)
    for name in PATHS:
        if name not in problems and texts[name] and (words := path_problem(name, texts[name])):
            problems[name] = f"{name}: {words}"
    if problems:
        return Checked(None, problems)
    settings = msgspec.convert(values, Settings)
    try:
        check_together(settings)
    except ConfigError as error:
        return Checked(None, {str(error).partition(":")[0]: str(error)})
    return Checked(settings, {})


def changed(texts: Mapping[str, str], preset_name: str) -> frozenset[str]:
    """The fields that mean something else than in the preset, but for those that it leaves alone."""
    usual = msgspec.structs.asdict(preset(preset_name))
    return frozenset(name for name, text in texts.items() if name not in KEPT and parsed(name, text) != usual[name])


def named_preset(settings: Settings, preset_name: str) -> str:
    """The preset's name, as long as the model has its shape; else ""."""
    return preset_name if settings.shape == preset(preset_name).shape else ""


def explanation(name: str, preset_name: str) -> tuple[str, str]:
    """Two lines about a field: what it means, and what it may be."""
    if name == "preset":
        return "preset: fills in all fields but the files, the folder, threads and seed", "one of " + ", ".join(PRESETS)
    usual = text_of(getattr(preset(preset_name), name))
    whose = "usually" if name in KEPT else f"{preset_name} has"
    return f"{name}: {fields()[name].description}", expected(name) + (f"; {whose} {usual}" if usual else "")
