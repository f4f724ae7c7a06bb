"""From the layers of settings to the settings in force, with where each value came from.

The layers, each over the one before: the preset (or, on a resume, the checkpoint's settings), a TOML file, the
environment variable OVERFIT_TINY, `--set KEY=VALUE`, the other options. A preset named beside a checkpoint gives its
shape only, so that a command repeated with `--resume` goes on as it was, and a wrong preset is found out.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import inspect

from gpt_core import files
from gpt_core.config.settings import DEFAULT_PRESET, PRESETS, ModelShape, Settings
from gpt_core.errors import CheckpointError, ConfigError

MAX_CONFIG_BYTES = 1 << 20
OVERFIT_VARIABLE = "OVERFIT_TINY"

# What a run that goes on must have in common with its checkpoint: the rest may change from one start to the next.
MUST_AGREE = (*ModelShape.__struct_fields__, "tokenizer", "document")

_WORDS_FOR_BOOL = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
# The first setting of each group of the table, and what the group is about.
GROUPS = {
    "d_model": "the model's shape",
    "attn_lr": "learning rates: one group each, all on the same schedule",
    "adam_beta1": "AdamW",
    "batch_size": "batches",
    "max_steps": "how long",
    "eval_every_steps": "evaluating, sampling and saving",
    "train_file": "text",
    "overfit_tiny": "tiny overfit",
    "temperature": "generation",
    "models_dir": "the machine",
}


class Resolved(NamedTuple):
    """The settings in force. `sources` says where each came from; `preset` is "" where no preset is known."""

    settings: Settings
    preset: str
    sources: dict[str, str]


class _Field(NamedTuple):
    kind: inspect.Type
    description: str


def resolve(
    preset: str | None = None,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    base: Settings | None = None,
    base_preset: str = "",
    foreign: Sequence[str] = (),
) -> Resolved:
    """Lays the layers over each other; everything but `base` is what the user wrote.

    `assignments` are KEY=VALUE; `options` maps a setting's name to the value of the option of that name, None for one
    that was not given; `base` and `base_preset` are a resumed checkpoint's; `foreign` are names of the file's that are
    somebody else's to read. Raises ConfigError, which names the setting, what was got, what is wanted and where it came
    from.
    """
    from_file = read_config(config_file) if config_file else {}
    from_file = {key: value for key, value in from_file.items() if key not in foreign}
    named = from_file.pop("preset", None) if preset is None else preset
    from_file.pop("preset", None)
    if named is not None and not (isinstance(named, str) and named in PRESETS):
        raise ConfigError(_unknown("preset", named, PRESETS))
    name = named or (DEFAULT_PRESET if base is None else "")
    values = msgspec.structs.asdict(base if base is not None else Settings())
    sources = dict.fromkeys(values, "default" if base is None else "checkpoint")

    def lay(layer: Mapping[str, object], source: str) -> None:
        for key, value in layer.items():
            values[key] = checked(key, value, source)
            sources[key] = source

    if name:
        whole = msgspec.structs.asdict(Settings()) | PRESETS[name]
        keys = ModelShape.__struct_fields__ if base is not None else PRESETS[name]
        lay({key: whole[key] for key in keys}, f"preset {name}")
    lay(from_file, str(config_file))
    if word := (environ or {}).get(OVERFIT_VARIABLE, ""):
        lay({"overfit_tiny": parsed("overfit_tiny", word)}, OVERFIT_VARIABLE)
    for assignment in assignments:
        key, equals, word = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: got no '=', wanted KEY=VALUE")
        lay({key.strip(): parsed(key.strip(), word)}, "--set")
    for key, value in (options or {}).items():
        if value is not None:
            lay({key: parsed(key, value)}, "--" + key.replace("_", "-"))
    settings = msgspec.convert(values, Settings)
    check_together(settings)
    return Resolved(settings, name if base is None else base_preset, sources)


def checked(key: str, value: object, source: str = "") -> object:
    """The value, if the setting may have it; every number has bounds, so none can be infinite. Raises ConfigError.

    The error names the `source`, if there is one to name.
    """
    where = f" (from {source})" if source else ""
    if key not in fields():
        raise ConfigError(f"{_unknown('setting', key, fields())}{where}")
    try:
        taken = getattr(msgspec.convert({key: value}, Settings), key)
    except msgspec.ValidationError:
        taken = None
    if isinstance(taken, str) and not _is_storable(taken):
        raise ConfigError(f"{key}: got {_shown(value)}, wanted text that UTF-8 can hold, without NULs{where}")
    if taken is None:
        raise ConfigError(f"{key}: got {_shown(value)}, wanted {wanted(key)}{where}")
    return taken


def check_together(settings: Settings) -> None:
    """What one setting demands of another. Raises ConfigError."""
    if settings.d_model % settings.num_heads:
        near = " or ".join(map(str, _divisors_around(settings.d_model, settings.num_heads)))
        raise ConfigError(
            f"num_heads: got {settings.num_heads}, wanted a divisor of d_model ({settings.d_model}); nearest: {near}"
        )
    if settings.batch_size % settings.micro_batch:
        near = ", ".join(map(str, _divisors_around(settings.batch_size, settings.micro_batch_size)))
        raise ConfigError(
            f"micro_batch_size: got {settings.micro_batch_size}, wanted a divisor of batch_size "
            f"({settings.batch_size}); nearest: {near}, or 0 for the whole batch"
        )


def check_resumable(checkpoint: Settings, asked: Settings, path: str) -> None:
    """Whether a run with the settings `asked` can go on from a checkpoint made with its own.

    The shape, the tokenizer and the kind of document must agree; everything else is the user's to change. Raises
    CheckpointError, which names each setting that differs, with both values.
    """
    differing = [
        f"{key} is {_shown(getattr(checkpoint, key))} there, {_shown(getattr(asked, key))} was asked for"
        for key in MUST_AGREE
        if getattr(checkpoint, key) != getattr(asked, key)
    ]
    if differing:
        raise CheckpointError(
            f"{path} cannot be resumed so: {'; '.join(differing)}. Leave these out, or start anew with --models-dir"
        )


def read_config(path: Path, said: str = "--config ") -> dict[str, object]:
    """The contents of a TOML file, unchecked; `said` is what stands before its name in an error.

    Raises ConfigError, with the line where the file is not TOML.
    """
    try:
        with files.open_regular(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{said}{path}: {files.reason(error)}; wanted a TOML file of settings") from None
    if data is None or len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{said}{path}: got more than {MAX_CONFIG_BYTES:,} bytes, wanted a TOML file of settings")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{said}{path}: got bytes that are not UTF-8 (at line {line}), wanted TOML") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and a number of thousands of digits
        raise ConfigError(f"{said}{path}: not TOML: {error}") from None


def wanted(key: str) -> str:
    """What a setting may be, in words."""
    kind = fields()[key].kind
    if isinstance(kind, inspect.LiteralType):
        return "one of " + ", ".join(map(str, kind.values))
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.StrType):
        return "text that is not empty" if kind.min_length else "text"
    assert isinstance(kind, inspect.IntType | inspect.FloatType)
    words = ((kind.ge, "at least"), (kind.gt, "more than"), (kind.le, "at most"), (kind.lt, "less than"))
    bounds = " and ".join(f"{word} {bound:g}" if abs(bound) < 1e5 else f"{word} {bound}"
                          for bound, word in words if bound is not None)  # fmt: skip
    return ("a whole number of " if isinstance(kind, inspect.IntType) else "a number of ") + bounds


@cache
def fields() -> dict[str, _Field]:
    """Every setting's type, bounds and description, in the order of the table."""
    table = inspect.type_info(Settings)
    assert isinstance(table, inspect.StructType)
    found = {}
    for field in table.fields:
        assert isinstance(field.type, inspect.Metadata)
        found[field.name] = _Field(field.type.type, (field.type.extra_json_schema or {})["description"])
    return found


def parsed(key: str, given: object) -> object:
    """What a word that was typed means for a setting, unchecked; the word itself if it means nothing."""
    word = fspath(given) if isinstance(given, PathLike) else given
    kind = fields()[key].kind if key in fields() else None
    if not isinstance(word, str):
        return word
    try:
        if isinstance(kind, inspect.IntType):
            return int(word)
        if isinstance(kind, inspect.FloatType):
            return float(word)
    except ValueError:
        return word
    return _WORDS_FOR_BOOL.get(word.strip().lower(), word) if isinstance(kind, inspect.BoolType) else word


def _unknown(what: str, got: object, known: Iterable[str]) -> str:
    """The message for a name that is not in the table, with the name that was probably meant."""
    plain = {name.replace("_", ""): name for name in known}
    typed = str(got).lower().replace("_", "").replace("-", "")
    near = [plain[name] for name in difflib.get_close_matches(typed, plain, n=1)]
    hint = f"did you mean {near[0]}?" if near else ("wanted one of " + ", ".join(plain.values()))
    if not near and len(plain) > 10:
        hint = "'gpt-tui config' lists them"
    return f"unknown {what} {_shown(got)}: {hint}"


def _divisors_around(number: int, near: int) -> list[int]:
    """The divisors of `number` next below and next above `near`, as far as there are any."""
    below = next((n for n in range(min(near, number), 0, -1) if number % n == 0), None)
    above = next((n for n in range(near, number + 1) if number % n == 0), None)
    return [n for n in (below, above) if n is not None]


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        words = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number too long to show"
    return words if len(words) <= 80 else words[:77] + "..."
