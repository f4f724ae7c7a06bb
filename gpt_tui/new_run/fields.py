"""Fields of the set-up screen: order, text, validation, explanation. Does not import Textual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from gpt_core.config.fine_tuning import FROM_FILE, base_settings, fine_tuning_defaults, settings_from_file
from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.settings import GROUP_RATES, LEARNING_RATE, Settings
from gpt_core.config.validation import (
    PATHS,
    TEXTS,
    check_together,
    checked,
    expanded,
    expected,
    fields,
    groups,
    name_list,
    names_as_text,
    parsed,
)
from gpt_core.errors import ConfigError, GptError, shown
from gpt_core.training.fine_tuning import differing_settings, peek_start
from gpt_core.training.gradient_sum import check_ranks
from gpt_core.training.request import with_micro_batches
from gpt_tui.shared.sanitize import one_line

MAX_NAME = 24  # characters of the name of a checkpoint in the title
# groups in the order of the form, the most frequently changed ones first
GROUP_ORDER = (
    "model shape", "text", "fine-tuning", "learning rate", "batches", "stopping", "system", "several machines",
    "evaluation and saving", "optimizer", "generation", "self-test", "architecture", "advanced",
)  # fmt: skip
# fields that a preset does not change
INDEPENDENT = (
    "train_file", "eval_file", "text_field", "encoding", "init_from", "freeze", "models_dir", "threads", "seed",
)  # fmt: skip

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


def start_settings(path: str) -> Settings:
    """Return the settings of the checkpoint that a run starts from. Raises CheckpointError."""
    return peek_start(path).settings


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


def text_of(name: str, value: Any) -> str:
    """Format the value of a setting as it is typed: 0.003, 1e-08, true, a.txt; b.txt."""
    if name in TEXTS:
        return names_as_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def texts_of(settings: Settings) -> dict[str, str]:
    """Return the text of each field for these settings; `learning_rate` is empty if the rates of the groups differ."""
    texts = {name: text_of(name, value) for name, value in msgspec.structs.asdict(settings).items()}
    rate = settings.learning_rate
    return texts | {LEARNING_RATE: "" if rate is None else text_of(LEARNING_RATE, rate)}


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


def with_preset(
    texts: Mapping[str, str], preset_name: str, start: Settings | None = None, ranks: int = 1
) -> dict[str, str]:
    """Return the text of each field after a preset is chosen.

    Args:
        texts: The text of each field before.
        preset_name: The preset.
        start: Settings of the checkpoint that the run starts from, whose shape and tokenizer it has; None without one.
        ranks: Number of ranks that train together.
    """
    base = with_micro_batches(base_settings(preset_name, texts["init_from"] if start is not None else ""), ranks)
    taken = {} if start is None else settings_from_file(start)
    from_file = {name: text_of(name, value) for name, value in taken.items()}
    return texts_of(base) | from_file | {name: texts[name] for name in INDEPENDENT}


def with_start(texts: Mapping[str, str], preset_name: str, start: Settings | None) -> dict[str, str]:
    """Return the text of each field after the checkpoint that the run starts from was chosen or cleared (None).

    Shape and tokenizer are those of the checkpoint, and the settings that fine-tuning changes have its defaults;
    without a checkpoint, all of these are those of the preset.
    """
    filled = with_preset(texts, preset_name, start)
    names = {*FROM_FILE, *fine_tuning_defaults(preset_name), LEARNING_RATE}
    return dict(texts) | {name: filled[name] for name in names}


def validate(texts: Mapping[str, str], path_problem: PathProblem, ranks: int = 1) -> Validated:
    """Validate each field, then the combination with each other and with the checkpoint that the run starts from.

    Args:
        texts: The text of each field.
        path_problem: Returns the problem of a path.
        ranks: Number of ranks that train together.
    """
    values: dict[str, object] = {}
    problems: dict[str, str] = {}
    for name, text in texts.items():
        if name == LEARNING_RATE and not text.strip():
            continue  # the rates of the groups count
        try:
            values[name] = checked(name, parsed(name, text.strip() if name in PATHS else text))
        except ConfigError as error:
            problems[name] = str(error)
    for name in PATHS:
        for path in name_list(values[name]) if name not in problems else ():  # type: ignore[arg-type]
            if problem := path_problem(name, path):
                problems[name] = f"{name}: {problem}"
                break
    if problems:
        return Validated(None, problems)
    settings = msgspec.convert(expanded(values), Settings)
    if settings.init_from and (problems := start_problems(settings)):
        return Validated(None, problems)
    try:
        check_together(settings)
    except ConfigError as error:
        return Validated(None, {str(error).partition(":")[0]: str(error)})
    problems = ranks_problems(settings, ranks)
    return Validated(None if problems else settings, problems)


def ranks_problems(settings: Settings, ranks: int) -> dict[str, str]:
    """Return why a step is not enough for so many ranks, by the field to change."""
    try:
        check_ranks(ranks, settings.batch_size, settings.micro_batch)
    except ConfigError as error:
        name = "micro_batch_size" if settings.batch_size >= ranks else "batch_size"
        return {name: f"{name}: {error}"}
    return {}


def start_problems(settings: Settings) -> dict[str, str]:
    """Return why a run cannot start from its checkpoint, by the field to change."""
    try:
        start = start_settings(settings.init_from)
    except GptError as error:
        return {"init_from": error.reason}
    return {
        name: f"{name}: got {shown(getattr(settings, name))}, expected {shown(getattr(start, name))} as in init_from"
        for name in differing_settings(start, msgspec.structs.asdict(settings))
    }


def changed(texts: Mapping[str, str], preset_name: str) -> frozenset[str]:
    """Return the names of the fields whose values differ from the preset and, with `init_from`, from its file."""
    init_from = texts["init_from"].strip()
    base = base_settings(preset_name, init_from)
    before = texts_of(base)
    omitted = (*INDEPENDENT, *(FROM_FILE if init_from else ()))
    return frozenset(
        name for name, text in texts.items()
        if name not in omitted and text != before[name] and parsed(name, text) != getattr(base, name)
    )  # fmt: skip


def changed_note(texts: Mapping[str, str], preset_name: str) -> str:
    """Return how many settings differ from the preset, "" for none; a rate shared by all groups counts once."""
    differing = changed(texts, preset_name)
    shared = LEARNING_RATE in differing and texts[LEARNING_RATE]
    n = len(differing - (set(GROUP_RATES) if shared else {LEARNING_RATE}))
    return f"• {n} changed from {preset_name}" if differing else ""


def title(texts: Mapping[str, str]) -> str:
    """Return what the form sets up: a run from random weights, or the fine-tuning of a checkpoint."""
    name = PurePath(texts["init_from"].strip()).stem
    return f"Set up fine-tuning of {one_line(name, MAX_NAME)}" if name else "Set up a run"


def named_preset(settings: Settings, preset_name: str) -> str:
    """Return the name of the preset if the model has its shape, else ""."""
    return preset_name if settings.shape == preset(preset_name).shape else ""


def note(name: str) -> str:
    """Return the meaning of a field, for the column beside it."""
    return (
        "sets all fields except texts, folder, fine-tuning, threads and seed"
        if name == "preset"
        else fields()[name].description
    )


def explanation(name: str, preset_name: str, init_from: str = "") -> tuple[str, str]:
    """Return two lines about a field: its meaning, and its valid values."""
    if name == "preset":
        return f"preset: {note(name)}", "one of " + ", ".join(PRESETS)
    default = texts_of(base_settings(preset_name, init_from))[name]
    if init_from and name in FROM_FILE:
        rule = "at most that of init_from" if name == "seq_len" else "set by init_from"
        return f"{name}: {fields()[name].description}", f"{expected(name)}; {rule}"
    empty = "; empty: the rates under advanced" if name == LEARNING_RATE else ""
    whose = "default" if name in INDEPENDENT else preset_name
    return f"{name}: {fields()[name].description}", expected(name) + empty + (
        f"; {whose}: {default}" if default else ""
    )
