"""Ctrl+C in a program that uses the library and does not handle SIGINT itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` if SIGINT arrives within the `with` block, and raise KeyboardInterrupt at its end.

    Python would raise it anywhere, for instance within an update, where weights and counters do not fit together. In
    other threads than the main one, and where SIGINT has a handler of its own, nothing is changed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    is_interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        stop()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if is_interrupted:
            raise KeyboardInterrupt
