"""The plain chat: a reply to each line of standard input."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_tui.shared.sanitize import printable

PROMPT = "> "
LOOK_S = 0.2


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
            line = asked_for() if at_terminals() else next(sys.stdin).rstrip("\n")
        except (EOFError, StopIteration):
            if at_terminals():
                print()
            return
        if line.strip() == "exit":
            return
        if line.strip():
            yield line


def asked_for() -> str:
    """A line of input at the prompt. Raises KeyboardInterrupt for Ctrl+C, whenever it comes.

    `input` itself overlooks a signal that arrives after the prompt is shown and before it waits, until the next key;
    another signal a few times a second makes it look.
    """
    if not hasattr(signal, "setitimer"):
        return input(PROMPT)
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
    try:
        return input(PROMPT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def at_terminals() -> bool:
    """Whether somebody sits at both ends."""
    return sys.stdin is not None and sys.stdout is not None and sys.stdin.isatty() and sys.stdout.isatty()


def write(text: str) -> None:
    """Text to standard output at once; on a terminal nothing in it can steer the terminal."""
    print(printable(text) if sys.stdout is not None and sys.stdout.isatty() else text, end="", flush=True)
