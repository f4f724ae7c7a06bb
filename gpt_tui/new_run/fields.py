"""Fields of the set-up screen: order, text, validation, explanation. Does not import Textual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import inspect

from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.settings import GROUP_RATES, LEARNING_RATE, Settings
from gpt_core.config.validation import PATHS, check_together, checked, expanded, expected, fields, groups, parsed
from gpt_core.errors import ConfigError

# groups in the order of the form, the most frequently changed ones first
GROUP_ORDER = (
    "model shape", "text", "learning rate", "batches", "stopping", "system", "evaluation and saving", "optimizer",
    "generation", "self-test", "advanced",
)  # fmt: skip
INDEPENDENT = ("train_file", "eval_file", "models_dir", "threads", "seed")  # fields that a preset does not change

PathProblem = Callable[[str, str], str]  # setting name and path -> problem, "" for none


class SetupField(NamedTuple):
    """Setting in the form.

    Attributes:
        name: Name of the setting.
        group: Title above the field, "" if it does not start a group.
        choices: All values of a setting that has only a few; empty for a text field.
    """

    name: str
    group: str
    choices: tuple[str, ...]


class Validated(NamedTuple):
    """Result of a validation.

    Attributes:
        settings: The settings; None if a field is invalid.
        problems: Error message of each invalid field.
    """

    settings: Settings | None
    problems: dict[str, str]


def setup_fields() -> list[SetupField]:
    """Return the settings that can be changed, in the order of the form; settings with a single choice are omitted."""
    names = {group: [name for name in members if len(choices_of(name)) != 1] for group, members in groups().items()}
    return [
        SetupField(name, group if name == names[group][0] else "", choices_of(name))
        for group in GROUP_ORDER
        for name in names[group]
    ]


def choices_of(name: str) -> tuple[str, ...]:
    """Return the values of a setting that has only a few, else an empty tuple."""
    field = fields()[name]
    return ("false", "true") if isinstance(field.kind, inspect.BoolType) else field.choices()


def text_of(value: object) -> str:
    """Format a value as it is typed: 0.003, 1e-08, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def texts_of(settings: Settings) -> dict[str, str]:
    """Return the text of each field for these settings; `learning_rate` is empty if the rates of the groups differ."""
    texts = {name: text_of(value) for name, value in msgspec.structs.asdict(settings).items()}
    rate = settings.learning_rate
    return texts | {LEARNING_RATE: "" if rate is None else text_of(rate)}


def with_linked(texts: Mapping[str, str], typed: str) -> dict[str, str]:
    """Return the texts after one was typed: `learning_rate` sets the rates of the groups, and shows the one they share.

    An empty `learning_rate` leaves the groups as they are, and so does an invalid one.
    """
    if typed == LEARNING_RATE:
        try:
            checked(LEARNING_RATE, parsed(LEARNING_RATE, texts[LEARNING_RATE]))
        except ConfigError:
            return dict(texts)
        return dict(texts) | dict.fromkeys(GROUP_RATES, texts[LEARNING_RATE])
    if typed in GROUP_RATES:
        rates = [parsed(name, texts[name]) for name in GROUP_RATES]
        return dict(texts) | {LEARNING_RATE: texts[typed] if all(rate == rates[0] for rate in rates) else ""}
    return dict(texts)


def with_preset(texts: Mapping[str, str], preset_name: str) -> dict[str, str]:
    """Return the text of each field after a preset is chosen."""
    return texts_of(preset(preset_name)) | {name: texts[name] for name in INDEPENDENT}


def validate(texts: Mapping[str, str], path_problem: PathProblem) -> Validated:
    """Validate each field, then the combination."""
    values: dict[str, object] = {}
    problems: dict[str, str] = {}
    for name, text in texts.items():
        if name == LEARNING_RATE and not text.strip():
            continue  # the rates of the groups count
        try:
            values[name] = checked(name, parsed(name, text))
        except ConfigError as error:
            problems[name] = str(error)
    for name in PATHS:
        if name not in problems and values[name] and (problem := path_problem(name, str(values[name]))):
            problems[name] = f"{name}: {problem}"
    if problems:
        return Validated(None, problems)
    settings = msgspec.convert(expanded(values), Settings)
    try:
        check_together(settings)
    except ConfigError as error:
        return Validated(None, {str(error).partition(":")[0]: str(error)})
    return Validated(settings, {})


def changed(texts: Mapping[str, str], preset_name: str) -> frozenset[str]:
    """Return the names of the fields whose values differ from the preset."""
    base = preset(preset_name)
    before = texts_of(base)
    return frozenset(
        name for name, text in texts.items()
        if name not in INDEPENDENT and text != before[name] and parsed(name, text) != getattr(base, name)
    )  # fmt: skip


def changed_note(texts: Mapping[str, str], preset_name: str) -> str:
    """Return how many settings differ from the preset, "" for none; a rate shared by all groups counts once."""
    differing = changed(texts, preset_name)
    shared = LEARNING_RATE in differing and texts[LEARNING_RATE]
    n = len(differing - (set(GROUP_RATES) if shared else {LEARNING_RATE}))
    return f"• {n} changed from {preset_name}" if differing else ""


def named_preset(settings: Settings, preset_name: str) -> str:
    """Return the name of the preset if the model has its shape, else ""."""
    return preset_name if settings.shape == preset(preset_name).shape else ""


def note(name: str) -> str:
    """Return the meaning of a field, for the column beside it."""
    return "sets all fields except files, folder, threads and seed" if name == "preset" else fields()[name].description


def explanation(name: str, preset_name: str) -> tuple[str, str]:
    """Return two lines about a field: its meaning, and its valid values."""
    if name == "preset":
        return f"preset: {note(name)}", "one of " + ", ".join(PRESETS)
    default = texts_of(preset(preset_name))[name]
    empty = "; empty: the rates under advanced" if name == LEARNING_RATE else ""
    whose = "default" if name in INDEPENDENT else preset_name
    return f"{name}: {fields()[name].description}", expected(name) + empty + (
        f"; {whose}: {default}" if default else ""
    )
