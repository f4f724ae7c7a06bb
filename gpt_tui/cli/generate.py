"""The commands that speak: `generate` goes on from one prompt, `chat` from one line of input after another."""

from __future__ import annotations

from argparse import Namespace

from gpt_core.generation.generator import Generator, prompt_bytes
from gpt_core.generation.sampler import Sampling
from gpt_tui.cli.options import load_model
from gpt_tui.headless.terminal_chat import converse, write

SAMPLING_OPTIONS = ("max_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")


def generate(options: Namespace) -> int:
    """`gpt-tui generate`: the prompt, then what the model goes on with, piece by piece; nothing else on stdout."""
    generator, sampling = speaker(options)
    text = prompt_bytes(options.prompt).decode("utf-8", "replace")
    write(text)
    for piece in generator.generate(options.prompt, sampling):
        write(piece)
        text = piece
    if not text.endswith("\n"):
        write("\n")
    return 0


def chat(options: Namespace) -> int:
    """`gpt-tui chat`: a reply to each line, until `exit` or the end of input."""
    generator, sampling = speaker(options)
    converse(generator, sampling)
    return 0


def speaker(options: Namespace) -> tuple[Generator, Sampling]:
    """The generator and the sampling that the options ask for."""
    model = load_model(options, SAMPLING_OPTIONS)
    seed = model.settings.seed if options.seed is not None else None
    return Generator(model.parameters, model.tokenizer, seed=seed), Sampling.from_settings(model.settings)
