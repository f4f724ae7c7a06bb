"""Text of the Chat tab: model options, sampling fields, and the lines around a reply. Does not import Textual."""

from __future__ import annotations

from typing import Any, NamedTuple

from gpt_core.config.settings import Settings
from gpt_core.config.validation import checked
from gpt_core.errors import ConfigError
from gpt_core.generation.generator import Figures, readable
from gpt_core.generation.sampler import Sampling
from gpt_core.model.stored_weights import WeightFormat
from gpt_tui.new_run.fields import text_of
from gpt_tui.session.model_options import AvailableModels
from gpt_tui.shared.formatting import counted, duration, short, skipped_note
from gpt_tui.shared.keymap import with_keys
from gpt_tui.shared.sanitize import one_line, printable
from gpt_tui.shared.scripts import is_unspaced

EMPTY = """\
Type the beginning of a text below; the model continues it. This is a small base model, not instruction-tuned: start \
in the style of its training text.

Enter on an empty line continues the last reply; {chat.earlier} recalls earlier prompts. {chat.fields} moves to the \
settings: the model, a model to compare with, the sampling. {chat.surprise} shows how surprising each token of a \
reply was. Type exit to go back to training."""

NO_MODEL = """\
There is no model to chat with yet.

Go to the Train tab ({go.train}) and press {train.start} to start training. After about a minute the model writes \
words, and you can chat with it here while it trains."""

MAX_EXAMPLE = 60

EMPTY_REPLY = "(empty reply)"
CONTINUED = "(continued)"


# -- sampling fields


class Field(NamedTuple):
    """A field of the chat: its setting, label, type and a hint on its values."""

    name: str
    label: str
    kind: type[int] | type[float] | type[str]
    hint: str


class ReplySettings(NamedTuple):
    """Settings of a reply. `seed` is None for a random one."""

    sampling: Sampling
    seed: int | None
    weights: WeightFormat


FIELDS: tuple[Field, ...] = (
    Field("temperature", "temperature", float, "0 = greedy"),
    Field("top_k", "top-k", int, "k most likely, 0 = all"),
    Field("top_p", "top-p", float, "smallest set reaching p"),
    Field("repetition_penalty", "repetition", float, "penalty, 1 = off"),
    Field("max_tokens", "max tokens", int, "length limit of a reply"),
    Field("seed", "seed", int, "empty = random"),
    Field("weights", "weights", str, "float32, bfloat16 or int8"),
)


def parse_field(field: Field, text: str) -> int | float | str | None:
    """Return the value of a field's text, None for an empty seed. Raises ConfigError, which names the field."""
    text = text.strip()
    if field.name == "seed" and not text:
        return None
    try:
        value: int | float | str = field.kind(text)
    except ValueError:
        kind = "an integer" if field.kind is int else "a number"
        raise ConfigError(f"{field.label}: got {text or 'nothing'!r}, expected {kind}") from None
    try:
        result = checked(field.name, value)
    except ConfigError as error:
        raise ConfigError(f"{field.label}{str(error).removeprefix(field.name)}") from None
    assert isinstance(result, int | float | str)
    return result


def parse_fields(texts: dict[str, str]) -> ReplySettings:
    """Return the settings of the fields' texts. Raises ConfigError for the first invalid field."""
    values: dict[str, Any] = {field.name: parse_field(field, texts[field.name]) for field in FIELDS}
    seed, weights = values.pop("seed"), values.pop("weights")
    return ReplySettings(Sampling(**values), seed, weights)


def initial_texts(settings: Settings) -> dict[str, str]:
    """Return the initial texts of the fields; the seed is empty."""
    return {field.name: text_of(field.name, getattr(settings, field.name)) for field in FIELDS} | {"seed": ""}


def hint(available: AvailableModels, keymap: dict[str, str]) -> str:
    """Return the text of an empty conversation: how to chat, with a prompt that suits the model."""
    text = with_keys(EMPTY if available.any else NO_MODEL, keymap)
    return f"{text}\n\nFor example: {one_line(available.example, MAX_EXAMPLE)}" if available.example else text


# -- prompts and replies

MAX_SHOWN_LINES = 12
MAX_SHOWN_CHARACTERS = 1500


def shown_prompt(prompt: str) -> str:
    """Return a prompt as shown above its reply: of a long one the end, which the reply continues."""
    lines = printable(prompt).split("\n")
    last = "\n".join(lines[-MAX_SHOWN_LINES:])[-MAX_SHOWN_CHARACTERS:]
    hidden = len(printable(prompt)) - len(last)
    return f"({counted(hidden, 'character')} above)\n{last}" if hidden else last


def shown_reply(prompt: str, text: str) -> str:
    """Return a reply as shown under its prompt; `…` marks one that continues the prompt's last word.

    Scripts without spaces between words, such as Chinese, have no such mark.
    """
    inside = all(end.isalnum() and not is_unspaced(end) for end in (prompt[-1:], text[:1]))
    return ("…" if inside else "") + printable(readable(text)).lstrip(" ")


def progress_line(tokens: int, tokens_per_s: float) -> str:
    """Return the tokens generated so far and the throughput: `40 tokens · 3.10k tokens/s`."""
    speed = f" · {short(tokens_per_s)} tokens/s" if tokens_per_s else ""
    return f"{counted(tokens, 'token')}{speed}"


def summary_line(figures: Figures, seed: int, *, stopped: bool) -> str:
    """Return the summary of a finished reply: `120 tokens · 3.10k tokens/s · end of text · seed 7`."""
    ending = {
        "eos": "end of text" if figures.tokens else "end of text at once",
        "max_tokens": "max length reached",
    }.get(figures.ended_by, "")
    if stopped and not ending:
        ending = "stopped"
    prompt = f"prompt processed in {duration(figures.prompt_s)}" if figures.prompt_s >= 2 else ""
    skipped = skipped_note(figures.prompt_tokens, figures.skipped_tokens)
    progress = progress_line(figures.tokens, figures.tokens_per_s)
    return " · ".join(part for part in (progress, ending, prompt, skipped, f"seed {seed}") if part)
