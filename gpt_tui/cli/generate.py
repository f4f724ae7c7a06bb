"""Commands that generate text: `generate` continues one prompt, `chat` one line of input after another."""

from __future__ import annotations

from argparse import Namespace

from gpt_core.generation.generator import Generator, prompt_bytes
from gpt_core.generation.sampler import Sampling
from gpt_tui.cli.options import load_model
from gpt_tui.headless.terminal_chat import converse, write

SAMPLING_OPTIONS = ("max_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")


def generate(options: Namespace) -> int:
    """Run `gpt-tui generate`: print the prompt and the generated text, and nothing else on standard output."""
    generator, sampling = generator_of(options)
    text = prompt_bytes(options.prompt).decode("utf-8", "replace")
    write(text)
    for piece in generator.generate(options.prompt, sampling):
        write(piece)
        text = piece
    if not text.endswith("\n"):
        write("\n")
    return 0


def chat(options: Namespace) -> int:
    """Run `gpt-tui chat`: reply to each line until `exit` or end of input."""
    generator, sampling = generator_of(options)
    converse(generator, sampling)
    return 0


def generator_of(options: Namespace) -> tuple[Generator, Sampling]:
    """Return the generator and the sampling parameters of the options."""
    model = load_model(options, SAMPLING_OPTIONS)
    seed = model.settings.seed if options.seed is not None else None
    return Generator(model.parameters, model.tokenizer, seed=seed), Sampling.from_settings(model.settings)
