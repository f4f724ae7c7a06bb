"""Ctrl+C during startup, before there is anything to save."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
