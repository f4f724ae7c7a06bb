"""Validate settings one by one and together, and describe what each may be. Derived from the table of `Settings`."""

from __future__ import annotations

import codecs
import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from os import PathLike, fspath
from pathlib import PurePath
from typing import NamedTuple

import msgspec
from msgspec import inspect

from gpt_core.config.freezing import frozen_parts
from gpt_core.config.settings import GROUP_RATES, LEARNING_RATE, Settings
from gpt_core.errors import ConfigError, shown
from gpt_core.home import expand_home

TEXTS = ("train_file", "eval_file")
"""Settings that are one or several names of files, folders or patterns."""
READING = ("text_field", "encoding", "allow_binary")
"""Settings that say how the files of a text are read."""
PATHS = (*TEXTS, "init_from", "models_dir")
"""Settings that are paths."""
NAME_SEPARATOR = ";"  # of several names in one word

_BOOLEAN_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_MAX_LISTED_NAMES = 10


OTHER_NAMES = {
    "lr": LEARNING_RATE, "epochs": "max_epochs", "num_epochs": "max_epochs", "steps": "max_steps",
    "max_iters": "max_steps", "batch": "batch_size", "block_size": "seq_len", "context_length": "seq_len",
    "n_ctx": "seq_len", "n_layer": "layers", "num_layers": "layers", "n_head": "num_heads", "heads": "num_heads",
    "n_embd": "d_model", "eval_interval": "eval_every_steps", "warmup_iters": "warmup_steps",
    "activation": "mlp", "hidden_act": "mlp", "activation_function": "mlp", "tie_word_embeddings": "tied_head",
    "position_embedding_type": "positions", "rope": "positions", "rms_norm": "norm", "normalization": "norm",
}  # fmt: skip
"""Names that other programs give to the settings, for the hint of an unknown one."""


class Field(NamedTuple):
    """Type with bounds, description and group of one setting, and the function that lists all values it may have.

    `choices` returns an empty tuple for a setting whose values are not listed.
    """

    kind: inspect.Type
    description: str
    group: str
    choices: Callable[[], tuple[str, ...]]


@cache
def fields() -> dict[str, Field]:
    """Return every setting by its name, in the order of the table.

    `learning_rate`, which sets the rate of every group, is one of them, before the other settings of its schedule.
    """
    table = inspect.type_info(Settings)
    assert isinstance(table, inspect.StructType)
    found = {}
    group = ""
    for field in table.fields:
        assert isinstance(field.type, inspect.Metadata)
        kind, extra = field.type.type, field.type.extra or {}
        group = extra.get("group", group)
        listed: tuple[str, ...] = tuple(map(str, kind.values)) if isinstance(kind, inspect.LiteralType) else ()
        choices = extra.get("choices", lambda listed=listed: listed)
        found[field.name] = Field(kind, (field.type.extra_json_schema or {})["description"], group, choices)
    at = list(found).index("warmup_steps")
    all_groups = found[GROUP_RATES[0]]._replace(
        description="learning rate of all parameters (per group: see advanced)", group=found["warmup_steps"].group
    )
    return dict([*list(found.items())[:at], (LEARNING_RATE, all_groups), *list(found.items())[at:]])


def groups() -> dict[str, list[str]]:
    """Return the names of the settings of each group, by the group's title."""
    found: dict[str, list[str]] = {}
    for name, field in fields().items():
        found.setdefault(field.group, []).append(name)
    return found


def expanded(values: Mapping[str, object]) -> dict[str, object]:
    """Return one layer of settings with `learning_rate` replaced by the rate of each group it does not name itself."""
    rest = {key: value for key, value in values.items() if key != LEARNING_RATE}
    return dict.fromkeys(GROUP_RATES, values[LEARNING_RATE]) | rest if LEARNING_RATE in values else rest


def parsed(key: str, given: object) -> object:
    """Convert a typed word to the type of a setting, without checking its bounds.

    Returns `given` unchanged where it is not a word or cannot be converted. Several names of files are separated by `;`
    or written as a list of TOML; a path, and each item of a list, is one name.
    """
    if key in TEXTS and isinstance(given, list | tuple):
        return tuple(fspath(name) if isinstance(name, PathLike) else name for name in given)
    if key in TEXTS and isinstance(given, str):
        return _names(given)
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
    return _BOOLEAN_WORDS.get(word.strip().lower(), word) if isinstance(kind, inspect.BoolType) else word


def _names(word: str) -> object:
    """Return the names of files in a word, the word itself if it is one name."""
    if word.startswith("["):
        try:
            return tuple(tomllib.loads(f"names = {word}")["names"])
        except (ValueError, RecursionError):
            return word
    if NAME_SEPARATOR not in word:
        return word
    return tuple(name.strip() for name in word.split(NAME_SEPARATOR) if name.strip())


def names_as_text(value: str | Sequence[str]) -> str:
    """Return names of files as a word that `parsed` converts back to them."""
    names = name_list(value)
    word = f"{NAME_SEPARATOR} ".join(names)
    return word if _names(word) == value else toml_value(names)


def name_list(value: str | Sequence[str]) -> list[str]:
    """Return the names that a setting of files holds."""
    return ([value] if value else []) if isinstance(value, str) else list(value)


def names_title(value: str | Sequence[str]) -> str:
    """Return the last component of the first name, and how many more there are; "" for none."""
    names = list(dict.fromkeys(name_list(value)))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{PurePath(names[0]).name}{more}" if names else ""


def toml_value(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if not isinstance(value, str):
        return repr(value)
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted) + '"'


def checked(key: str, value: object, source: str = "") -> object:
    """Return the value of a setting, if the setting may have it; a path with a leading `~` expanded.

    Every number has bounds, so all of them are finite. A NumPy number becomes a Python number.

    Args:
        key: Name of the setting.
        value: Value of any type.
        source: Where the value came from, for the error message; "" to leave it out.

    Raises:
        ConfigError: The setting is unknown, or the value has the wrong type or is out of bounds.
    """
    where = f" (from {source})" if source else ""
    if key not in fields():
        raise ConfigError(f"{unknown_name('setting', key, fields())}{where}")
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    try:
        stored = GROUP_RATES[0] if key == LEARNING_RATE else key
        accepted = getattr(msgspec.convert({stored: value}, Settings), stored)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter: bytes of a word that are not UTF-8
        accepted = None
    if isinstance(value, set | frozenset):  # of names, whose order differs from process to process
        accepted = None
    choices = fields()[key].choices()
    if accepted is None or (choices and accepted not in choices):
        near = closest(value, choices) if choices else _with_decimal_point(key, value)
        hint = f"; did you mean {near}?" if near else ""
        got = shown(value)
        if isinstance(fields()[key].kind, inspect.FloatType):
            got = got.removesuffix(".0")  # a whole number, as typed
        raise ConfigError(f"{key}: got {got}, expected {expected(key)}{hint}{where}")
    words = accepted if isinstance(accepted, tuple) else (accepted,) if isinstance(accepted, str) else ()
    if unstorable := next((word for word in words if not _is_storable(word)), ""):
        kind = "folder" if key == "models_dir" else "file"
        is_name = key in PATHS and "\0" not in unstorable
        wanted = f"a {kind} name in UTF-8; rename the {kind}" if is_name else "valid UTF-8 text without NUL characters"
        raise ConfigError(f"{key}: got {shown(unstorable)}, expected {wanted}{where}")
    if key == "encoding" and accepted and not _is_encoding(str(accepted)):
        raise ConfigError(
            f"{key}: got {shown(value)}, expected the name of an encoding, such as cp1252, utf-16-le or gb18030{where}"
        )
    if isinstance(accepted, tuple) and not (accepted and all(accepted)):
        raise ConfigError(f"{key}: got an empty {'name' if accepted else 'list'}, expected {expected(key)}{where}")
    if key not in PATHS:
        return accepted
    paths = tuple(_with_home(key, word, where) for word in words)
    return paths[0] if len(paths) == 1 else paths


def _with_decimal_point(key: str, value: object) -> str:
    """Return a number typed with a decimal comma as it is expected, "" for anything else."""
    if not isinstance(value, str) or not isinstance(fields()[key].kind, inspect.FloatType):
        return ""
    word = value.strip().replace(",", ".")
    return word if word != value.strip() and isinstance(parsed(key, word), float) else ""


def _with_home(key: str, path: str, where: str) -> str:
    if not path.startswith("~"):
        return path
    try:
        return str(expand_home(path))
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}{where}") from None


def check_together(settings: Settings) -> None:
    """Check what depends on more than one setting, or on what is registered.

    Raises:
        ConfigError: A setting does not fit another one, or the tokenizer or the optimizer is not registered.
    """
    checked("tokenizer", settings.tokenizer)
    checked("optimizer", settings.optimizer)
    if settings.d_model % settings.num_heads:
        near = " or ".join(map(str, _divisors_around(settings.d_model, settings.num_heads)))
        raise ConfigError(
            f"num_heads: got {settings.num_heads}, expected a divisor of d_model ({settings.d_model}); nearest: {near}"
        )
    if settings.positions == "rope" and (channels := settings.shape.head_size) % 2:
        raise ConfigError(
            f"positions: got rope with {channels} channel{'' if channels == 1 else 's'} per head "
            "(d_model / num_heads), expected an even number: rope rotates pairs of channels; "
            "positions learned accepts any number"
        )
    if settings.batch_size % settings.micro_batch:
        near = ", ".join(map(str, _divisors_around(settings.batch_size, settings.micro_batch_size)))
        raise ConfigError(
            f"micro_batch_size: got {settings.micro_batch_size}, expected a divisor of batch_size "
            f"({settings.batch_size}); nearest: {near}, or 0 for all sequences at once"
        )
    if settings.hold_out and settings.eval_file:
        raise ConfigError(
            f"hold_out: got true with eval_file {shown(settings.eval_file)}, expected one of them: the end of the "
            "training text is scored, or an eval file"
        )
    frozen_parts(settings.freeze, settings.shape)
    if settings.best_metric == "accuracy" and settings.improvement_threshold > 1:
        raise ConfigError(
            f"improvement_threshold: got {settings.improvement_threshold:g}, expected at most 1: with best_metric "
            "accuracy it is a fraction; choose a smaller one, or best_metric loss, where it is in nats"
        )


def expected(key: str) -> str:
    """Describe the values that a setting may have."""
    kind = fields()[key].kind
    if choices := fields()[key].choices():
        return "one of " + ", ".join(choices)
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if key in TEXTS:
        return f"a file, a folder or a pattern; several separated by {NAME_SEPARATOR}"
    if isinstance(kind, inspect.StrType):
        return "text that is not empty" if kind.min_length else "text"
    assert isinstance(kind, inspect.IntType | inspect.FloatType)
    words = ((kind.ge, "at least"), (kind.gt, "more than"), (kind.le, "at most"), (kind.lt, "less than"))
    bounds = " and ".join(f"{word} {_bound(bound)}" for bound, word in words if bound is not None)
    return ("a whole number of " if isinstance(kind, inspect.IntType) else "a number of ") + bounds


def _bound(bound: float) -> str:
    """Return a bound as text; the largest ones as a power of two."""
    if abs(bound) < 1e5:
        return f"{bound:g}"
    for add, minus in ((0, ""), (1, " - 1")):
        if (power := int(bound) + add) >= 1 << 30 and power.bit_count() == 1:
            return f"2^{power.bit_length() - 1}{minus}"
    return str(bound).removesuffix(".0")


def unknown_name(what: str, got: object, known: Iterable[str]) -> str:
    """Return the error message for an unknown name, with the closest known one."""
    names = list(known)
    near = OTHER_NAMES.get(str(got).lower().replace("-", "_"), "")
    near = near if near in names else closest(got, names)
    hint = f"did you mean {near}?" if near else "expected one of " + ", ".join(names)
    if not near and len(names) > _MAX_LISTED_NAMES:
        hint = "`gpt-tui config` lists them"
    return f"unknown {what} {shown(got)}: {hint}"


def closest(got: object, known: Iterable[str]) -> str:
    """Return the known name most similar to `got`, ignoring case, `_` and `-`; "" if none is similar."""
    plain = {name.replace("_", ""): name for name in known}
    typed = str(got)[:80].lower().replace("_", "").replace("-", "") if isinstance(got, str) else ""
    return next((plain[name] for name in difflib.get_close_matches(typed, plain, n=1)), "")


def _divisors_around(number: int, near: int) -> list[int]:
    """Return the largest divisor of `number` up to `near` and the smallest one from `near` on, where they exist."""
    below = next((n for n in range(min(near, number), 0, -1) if number % n == 0), None)
    above = next((n for n in range(near, number + 1) if number % n == 0), None)
    return [n for n in (below, above) if n is not None]


def _is_encoding(name: str) -> bool:
    """Return True for the name of an encoding of text that reads any bytes, unlike those of host names."""
    try:
        b"\xff".decode(name, "replace")
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError):
        return False
    return True


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
