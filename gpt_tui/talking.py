"""The commands that speak: `generate` goes on from one prompt, `chat` from one line of input after another."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections.abc import Iterator

from gpt_core.generation.generator import Generator, prompt_bytes
from gpt_core.generation.sampler import Sampling
from gpt_tui.loading import load_model
from gpt_tui.plain_text import printable

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


def converse(generator: Generator, sampling: Sampling) -> None:
    """The plain chat: each line is a prompt of its own. On a terminal Ctrl+C stops a reply, at the prompt the chat."""
    if at_terminals():
        print("Write how a text begins; the model goes on from there. `exit` ends the chat, Ctrl+C stops a reply.")
    for line in prompts():
        try:
            for piece in generator.generate(line, sampling):
                write(piece)
        except KeyboardInterrupt:  # what was said stays
            if not at_terminals():
                raise
        write("\n")


def prompts() -> Iterator[str]:
    """The lines of standard input, blank ones left out, until the word `exit` or the end."""
    if sys.stdin is None:
        return
    with contextlib.suppress(AttributeError):  # a stand-in for standard input, in tests
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    if at_terminals():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (importing it gives `input` line editing and history)
    while True:
        try:
            line = input("> ") if at_terminals() else next(sys.stdin).rstrip("\n")
        except (EOFError, StopIteration):
            if at_terminals():
                print()
            return
        if line.strip() == "exit":
            return
        if line.strip():
            yield line


def at_terminals() -> bool:
    """Whether somebody sits at both ends."""
    return sys.stdin is not None and sys.stdout is not None and sys.stdin.isatty() and sys.stdout.isatty()


def write(text: str) -> None:
    """Text to standard output at once; on a terminal nothing in it can steer the terminal."""
    print(printable(text) if sys.stdout is not None and sys.stdout.isatty() else text, end="", flush=True)
