"""Signals while there is nothing to save: during startup, and in commands that print a result."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program, with its exit code: 128 + the number of the signal."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def available(*names: str) -> list[signal.Signals]:
    """Return those of the named signals that this system has."""
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]


@contextmanager
def interrupt_exits() -> Iterator[None]:
    """Let Ctrl+C end the process like SIGTERM while modules are imported and settings are read.

    KeyboardInterrupt would be raised at any point: an import may swallow it, and the program starts nevertheless; in
    msgspec, while it builds a decoder of a type, it crashes the process.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:  # the caller has its own handler, or ignores the signal
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def terminations_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise Interrupted, as Ctrl+C raises KeyboardInterrupt.

    What is temporary is then removed: files, folders, and the processes of a command. Signals that are ignored or have
    a handler stay as they are.
    """
    changed = [number for number in available("SIGTERM", "SIGHUP") if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(128 + number)


def skip_save_requests() -> None:
    """Let SIGUSR1, which requests a save, do nothing where no run handles it: by default it ends the process."""
    for number in available("SIGUSR1"):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda _number, _frame: None)
