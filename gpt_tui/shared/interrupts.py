"""Ctrl+C before there is anything to save."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Ctrl+C ends the process as SIGTERM does, for as long as modules are imported and settings read.

    KeyboardInterrupt would come in the middle of whatever runs: one that an import swallows is lost, and the program
    starts all the same; in msgspec, while it makes a decoder of a type, it crashes the process.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:  # somebody has other plans, or it is ignored
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
