"""Chat in the terminal: one reply per line of standard input."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from itertools import chain

from gpt_core.generation.generator import Figures, Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.text.encodings import prompt_text
from gpt_tui.shared.formatting import ENDED_AT_ONCE, skipped_note
from gpt_tui.shared.sanitize import one_line, printable
from gpt_tui.shared.standard_streams import can_print, is_terminal

PROMPT = "> "
LOOK_S = 0.2


def converse(generator: Generator, sampling: Sampling, example: str) -> None:
    """Generate a reply to each line of input. On a terminal, Ctrl+C stops a reply, or at the prompt the chat.

    Args:
        generator: The model.
        sampling: How tokens are chosen.
        example: A prompt that suits the model, "" for none.
    """
    if at_terminals():
        print("Type or paste the start of a text; the model continues it. Type `exit` to quit; Ctrl+C stops a reply.")
        if example and can_print(example, sys.stdout):
            print(f"For example: {one_line(example)}")
    for prompt in prompts():
        try:
            pieces = generator.generate(prompt, sampling)
            first = next(pieces, "")  # after it, the length of the prompt is known
            report_skipped(generator.figures)
            for piece in chain([first], pieces):
                write(piece)
            report_end(generator.figures)
        except KeyboardInterrupt:  # what was generated stays on the screen
            if not at_terminals():
                raise
        write("\n")


def prompts() -> Iterator[str]:
    """Yield the non-blank lines of standard input until the word `exit` or end of input.

    On a terminal, lines that are pasted together are one prompt, where GNU readline reads them.

    Raises:
        ConfigError: A line is not text in UTF-8; on a terminal, such a line is a prompt.
    """
    if sys.stdin is None:
        return
    with contextlib.suppress(AttributeError):  # tests replace standard input
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    if at_terminals():
        with contextlib.suppress(ImportError):
            import readline  # importing it gives `input` line editing and history

            readline.parse_and_bind("set enable-bracketed-paste on")
    while True:
        try:
            line = asked_for() if at_terminals() else next(sys.stdin).rstrip("\n")
        except (EOFError, StopIteration):
            if at_terminals():
                print()
            return
        if not at_terminals():
            line = prompt_text(line.encode("utf-8", "surrogateescape"), "a line of standard input")
        if line.strip() == "exit":
            return
        if line.strip():
            yield line


def asked_for() -> str:
    """Read a line at the prompt. Raises KeyboardInterrupt on Ctrl+C.

    `input` misses a signal that arrives between showing the prompt and waiting for a key; a timer signal a few times
    per second makes it check again.
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


def report_skipped(figures: Figures) -> None:
    """Report on standard error that the start of a prompt did not fit into the context."""
    if note := skipped_note(figures.prompt_tokens, figures.skipped_tokens):
        print(f"gpt-tui: {note}", file=sys.stderr)


def report_end(figures: Figures) -> None:
    """Report on standard error that the model added nothing to the prompt."""
    if figures.ended_by == "eos" and not figures.tokens:
        print(f"gpt-tui: {ENDED_AT_ONCE}", file=sys.stderr)


def at_terminals() -> bool:
    """Return True if standard input and output are terminals."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def write(text: str) -> None:
    """Write text to standard output and flush; on a terminal, control characters are made visible."""
    print(printable(text) if is_terminal(sys.stdout) else text, end="", flush=True)
