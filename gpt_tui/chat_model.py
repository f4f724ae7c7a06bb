"""Which model answers in the chat, and how a reply is made of it: all of it off the event loop, no widget in sight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from gpt_core.errors import GptError
from gpt_core.generation.generator import Figures, Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.model.parameters import Parameters
from gpt_core.text.vocabulary import Tokenizer
from gpt_core.training.checkpoint import read_checkpoint
from gpt_core.training.checkpoint_header import CheckpointInfo
from gpt_tui.engine import Engine
from gpt_tui.plain_text import one_line
from gpt_tui.quantities import duration, short, whole
from gpt_tui.stored_models import glance, verified_for_chat

PIECES_INTERVAL_S = 0.08  # text is handed on about this often, not piece by piece


class Answerer(NamedTuple):
    """A model that nobody changes while it answers, and what it is called."""

    parameters: Parameters
    tokenizer: Tokenizer
    name: str


class AnyGenerator(Protocol):
    """What a reply needs of `gpt_core.generation.generator.Generator`."""

    figures: Figures

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The reply, piece by piece."""


MakeGenerator = Callable[[Answerer, int | None], AnyGenerator]


def make_generator(answerer: Answerer, seed: int | None) -> AnyGenerator:
    """The real one."""
    return Generator(answerer.parameters, answerer.tokenizer, seed=seed)


class ChatModels:
    """Finds the model that answers: the one in training if there is a run, else a checkpoint, which is kept loaded."""

    def __init__(self, engine: Engine, models_dir: str) -> None:
        self._engine = engine
        self.models_dir = models_dir
        self._loaded: tuple[CheckpointInfo, Answerer] | None = None

    def answerer(self) -> Answerer:
        """The model for one reply. Slow (a copy of the weights, or a file is read): call it from a thread.

        Raises GptError when there is no model, or its file is damaged.
        """
        if trainer := self._engine.live_model():
            parameters, step = trainer.weights_snapshot()
            return Answerer(parameters, trainer.tokenizer, f"in training, step {whole(step)}")
        there = glance(self.models_dir).for_chat
        if self._loaded and there and (self._loaded[0].path, self._loaded[0].saved_at) == (there.path, there.saved_at):
            return self._loaded[1]
        info = verified_for_chat(self.models_dir)
        checkpoint = read_checkpoint(info.path, moments=False)
        tokenizer = Tokenizer.from_bytes(checkpoint.tokenizer)
        name = f"{info.path.name}, step {whole(checkpoint.state.step)}"
        self._loaded = info, Answerer(checkpoint.parameters, tokenizer, name)
        return self._loaded[1]


class ReplySink(Protocol):
    """Where a reply goes, called from the thread that makes it."""

    def began(self, model: str) -> None:
        """The model is known."""

    def grew(self, text: str, figures: Figures) -> None:
        """More text, and how fast it comes."""

    def ended(self, summary: str, failed: bool) -> None:
        """The end, and how it came."""


def reply(
    prompt: str,
    sampling: Sampling,
    seed: int | None,
    *,
    find: Callable[[], Answerer],
    make: MakeGenerator,
    stopped: threading.Event,
    sink: ReplySink,
) -> None:
    """Makes one reply and hands it to the sink, whatever happens. For a thread of its own; `stopped` ends it."""
    try:
        answerer = find()
        sink.began(answerer.name)
        generator = make(answerer, seed)
        waiting, handed_on = "", time.monotonic()
        for piece in generator.generate(prompt, sampling):
            waiting += piece
            if time.monotonic() - handed_on >= PIECES_INTERVAL_S:
                sink.grew(waiting, generator.figures)
                waiting, handed_on = "", time.monotonic()
            if stopped.is_set():
                break
        if waiting:
            sink.grew(waiting, generator.figures)
        sink.ended(summary(generator.figures, stopped.is_set()), failed=False)
    except GptError as error:
        sink.ended(one_line(str(error)), failed=True)
    except Exception as error:
        sink.ended(f"no reply: {type(error).__name__}: {one_line(str(error), 200)}", failed=True)


def summary(figures: Figures, stopped: bool) -> str:
    """How a reply ended, in one line: `120 tokens, 3.1k tokens/s, the model ended it`."""
    ending = {"eos": "the model ended it", "max_tokens": "cut at the length set"}.get(figures.ended_by, "")
    if stopped and not ending:
        ending = "stopped"
    speed = f"{short(figures.tokens_per_s)} tokens/s" if figures.tokens_per_s else ""
    prompt = f"prompt read in {duration(figures.prompt_s)}" if figures.prompt_s >= 2 else ""
    return " · ".join(
        part for part in (f"{figures.tokens} token{'s' * (figures.tokens != 1)}", speed, ending, prompt) if part
    )
