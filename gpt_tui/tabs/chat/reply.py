"""How a reply is made and told, one model's or two models' side by side. Off the event loop, no widget in sight."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from gpt_core.errors import GptError
from gpt_core.generation.generator import Figures
from gpt_core.generation.sampler import Sampling
from gpt_tui.shared.formatting import duration, short
from gpt_tui.shared.sanitize import one_line, printable
from gpt_tui.tabs.chat.loaded_models import LoadedModel, MakeGenerator, Tell

STRETCH_S = 0.08  # text is handed on about this often, not piece by piece,
MORE_FOR_CHARACTERS = 4000  # and less often the longer it is: drawing it takes time in proportion to its length
DRAWN_SEEDS = 1_000_000  # short enough to be typed again


class ReplySink(Protocol):
    """Where a reply goes, called from the thread that makes it."""

    def delayed(self, words: str) -> None:
        """What the reply waits for."""

    def began(self, model: str) -> None:
        """The model is known."""

    def grew(self, text: str, figures: Figures) -> None:
        """More text, and how fast it comes."""

    def ended(self, summary: str, failed: bool) -> None:
        """The end, and how it came."""


def reply(
    prompt: str,
    sampling: Sampling,
    seed: int,
    *,
    find: Callable[[Tell], LoadedModel],
    make: MakeGenerator,
    stopped: threading.Event,
    sink: ReplySink,
) -> Iterator[None]:
    """Makes one reply and hands it to the sink, whatever happens; gives way after each stretch of text.

    `stopped` ends it.
    """
    try:
        answerer = find(sink.delayed)
        sink.began(answerer.name)
        generator = make(answerer, seed)
        waiting, told, since = "", 0, time.monotonic()
        for piece in generator.generate(prompt, sampling):
            waiting += piece
            if time.monotonic() - since >= STRETCH_S * (1 + told / MORE_FOR_CHARACTERS):
                sink.grew(waiting, generator.figures)
                yield
                waiting, told, since = "", told + len(waiting), time.monotonic()
            if stopped.is_set():
                break
        if waiting:
            sink.grew(waiting, generator.figures)
        sink.ended(summary(generator.figures, seed, stopped=stopped.is_set()), failed=False)
    except GptError as error:
        sink.ended(one_line(str(error)), failed=True)
    except Exception as error:
        sink.ended(f"no reply: {type(error).__name__}: {one_line(str(error), 200)}", failed=True)


def side_by_side(replies: Iterable[Iterator[None]]) -> None:
    """Makes the replies to their ends, a stretch of each in turn. For a thread of its own.

    One thread for both: two were measured to take a third of its steps from a run under way, in turns they take none
    that shows, and the text of both is on the screen after two stretches.
    """
    under_way = list(replies)
    while under_way:
        under_way = [one for one in under_way if next(one, under_way) is not under_way]


def drawn_seed() -> int:
    """A seed for a reply for which the user gave none, so that this one, too, can be had again."""
    return secrets.randbelow(DRAWN_SEEDS)


def shown_reply(prompt: str, text: str) -> str:
    """A reply as it is shown under its prompt; one that goes on inside the prompt's last word begins with `…`."""
    inside = prompt[-1:].isalnum() and text[:1].isalnum()
    return ("…" if inside else "") + printable(text).lstrip(" ")


def progress(tokens: int, tokens_per_s: float) -> str:
    """How far a reply is, while it comes."""
    speed = f" · {short(tokens_per_s)} tokens/s" if tokens_per_s else ""
    return f"{counted(tokens)}{speed}"


def summary(figures: Figures, seed: int, *, stopped: bool) -> str:
    """How a reply ended, in one line: `120 tokens · 3.10k tokens/s · the model ended it · seed 7`."""
    ending = {"eos": "the model ended it", "max_tokens": "cut at the length set"}.get(figures.ended_by, "")
    if stopped and not ending:
        ending = "stopped"
    prompt = f"prompt read in {duration(figures.prompt_s)}" if figures.prompt_s >= 2 else ""
    return " · ".join(
        part for part in (progress(figures.tokens, figures.tokens_per_s), ending, prompt, f"seed {seed}") if part
    )


def counted(tokens: int) -> str:
    """`1 token`, `12 tokens`."""
    return f"{tokens} token{'s' * (tokens != 1)}"
