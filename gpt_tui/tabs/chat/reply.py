"""Generation of replies, one model's or two models' interleaved, in a worker thread. Independent of widgets."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from textual.message import Message

from gpt_core.errors import GptError
from gpt_core.generation.sampler import Sampling
from gpt_tui.session.models import LoadedModel, MakeGenerator, Report
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.chat.presenter import progress_line, summary_line

UPDATE_INTERVAL_S = 0.08
CHARACTERS_PER_INTERVAL = 4000  # the interval grows with each such number of characters, as drawing them takes longer
MAX_RANDOM_SEED = 1_000_000  # short enough to type again


class ReplyUpdate(Message, bubble=False):
    """Progress of a reply, posted by the thread that generates it.

    Attributes:
        state: "loading" until the model is available, then "generating"; the last update is "finished" or "failed".
        note: One line: the reason for waiting, the progress, the summary or the error.
        model: The model's name, "" while it is loading.
        text: The text generated since the update before, with bytes that are not valid UTF-8 escaped.
    """

    def __init__(
        self, state: Literal["loading", "generating", "finished", "failed"], note: str, *, model: str = "",
        text: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.state = state
        self.note = note
        self.model = model
        self.text = text


def generate_reply(
    prompt: str,
    sampling: Sampling,
    seed: int,
    *,
    load: Callable[[Report], LoadedModel],
    make: MakeGenerator,
    stopped: threading.Event,
    post: Callable[[ReplyUpdate], object],
) -> Iterator[None]:
    """Generate one reply and post its updates; yields after each of them, so that replies can be interleaved.

    Args:
        prompt: The text to continue.
        sampling: How tokens are chosen.
        seed: The random seed.
        load: Returns the model; calls its argument with the reason if that takes long.
        make: Returns a generator for the model.
        stopped: Ends the reply when set.
        post: Receives the updates. The last one is "finished" or "failed", whatever happens.
    """
    try:
        model = load(lambda reason: post(ReplyUpdate("loading", reason)))
        post(ReplyUpdate("generating", "", model=model.name))
        generator = make(model, seed)
        pending, posted, since_s = "", 0, time.monotonic()
        for piece in generator.generate(prompt, sampling, keep_bytes=True, is_stopped=stopped.is_set):
            pending += piece
            if time.monotonic() - since_s >= UPDATE_INTERVAL_S * (1 + posted / CHARACTERS_PER_INTERVAL):
                figures = generator.figures
                note = progress_line(figures.tokens, figures.tokens_per_s)
                post(ReplyUpdate("generating", note, model=model.name, text=pending))
                yield
                pending, posted, since_s = "", posted + len(pending), time.monotonic()
        summary = summary_line(generator.figures, seed, stopped=stopped.is_set())
        post(ReplyUpdate("finished", summary, model=model.name, text=pending))
    except GptError as error:
        post(ReplyUpdate("failed", one_line(error.reason)))
    except Exception as error:
        post(ReplyUpdate("failed", f"generation failed: {type(error).__name__}: {one_line(str(error), 200)}"))


def interleave(replies: Iterable[Iterator[None]]) -> None:
    """Run the replies to their ends in one thread, an update of each in turn.

    Two threads were measured to slow a run under way by a third; interleaved replies do not slow it measurably, and
    the text of both is shown after two update intervals.
    """
    active = list(replies)
    while active:
        active = [reply for reply in active if next(reply, active) is not active]


def random_seed() -> int:
    """Return a seed for a reply without one in the settings, so that this reply can be repeated, too."""
    return secrets.randbelow(MAX_RANDOM_SEED)
