"""The sampling settings as fields of text: how they are labelled, and what their texts mean. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.config.settings import Settings
from gpt_core.config.validation import checked
from gpt_core.errors import ConfigError
from gpt_core.generation.sampler import Sampling


class Field(NamedTuple):
    """One field. `number` is int or float; `hint` says what its values do, in a few words."""

    name: str
    label: str
    number: type[int] | type[float]
    hint: str


FIELDS: tuple[Field, ...] = (
    Field("temperature", "temperature", float, "0 takes the likeliest"),
    Field("top_k", "top-k", int, "of the k likeliest, 0: all"),
    Field("top_p", "top-p", float, "of those that reach p"),
    Field("repetition_penalty", "repetition", float, "above 1 repeats less"),
    Field("max_tokens", "length", int, "most tokens of a reply"),
    Field("seed", "seed", int, "empty: another each time"),
)


def parse_field(field: Field, text: str) -> int | float | None:
    """The value of one field; None is an empty seed. Raises ConfigError, whose line names the field."""
    text = text.strip()
    if field.name == "seed" and not text:
        return None
    try:
        value: int | float = field.number(text)
    except ValueError:
        kind = "a whole number" if field.number is int else "a number"
        raise ConfigError(f"{field.label}: got {text or 'nothing'!r}, wanted {kind}") from None
    result = checked(field.name, value, "the chat")
    assert isinstance(result, int | float)
    return result


def parse_sampling(texts: dict[str, str]) -> tuple[Sampling, int | None]:
    """The sampling and the seed that the fields' texts mean. Raises ConfigError for the first that means nothing."""
    values = {field.name: parse_field(field, texts[field.name]) for field in FIELDS}
    seed = values.pop("seed")
    return Sampling(**values), None if seed is None else int(seed)  # type: ignore[arg-type]


def initial_texts(settings: Settings) -> dict[str, str]:
    """What the fields say at first; the seed is empty."""
    return {field.name: "" if field.name == "seed" else f"{getattr(settings, field.name):g}" for field in FIELDS}
