"""Run the program with calls of one function of `os` that fail or are slow, in every thread.

`python -m tests.reliability.faulty_calls fsync 4 ENOSPC PYTHON -m gpt_tui ...`: the fourth fsync fails. With `3s` in
place of the error, the fourth and all later ones take three seconds. Of `replace`, only calls that rename a file to a
checkpoint count: threads write caches at any time. `strace` cannot do this: it counts calls per thread, and a save runs
in its own thread.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os_replace = os.replace


def counts(call: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Return True if a call with these arguments is one of those that are counted."""
    return call is not os_replace or os.fspath(arguments[1]).endswith(".safetensors")


class FailingCall:
    """Replacement for a function of `os` whose n-th call raises; with `after`, once the real call has completed."""

    def __init__(self, name: str, nth: int, number: int, *, after: bool = False) -> None:
        self.real, self.left, self.number, self.after = getattr(os, name), nth, number, after
        self.failed = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= counts(self.real, arguments)
        if self.left or self.failed:
            return self.real(*arguments, **named)
        self.failed = True
        if self.after:
            self.real(*arguments, **named)
        raise OSError(self.number, os.strerror(self.number))


class SlowCall:
    """Replacement for a function of `os` that is slow from its n-th call on."""

    def __init__(self, name: str, nth: int, seconds: float) -> None:
        self.real, self.left, self.seconds = getattr(os, name), nth, seconds

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= counts(self.real, arguments)
        if self.left <= 0:
            time.sleep(self.seconds)
        return self.real(*arguments, **named)


def faulty(name: str, nth: str, what: str) -> tuple[str, ...]:
    """Return the prefix of a command line that runs the program with this fault."""
    return (sys.executable, "-m", "tests.reliability.faulty_calls", name, nth, what)


def main() -> int:
    """Run the program with the fault and return its exit code."""
    from gpt_tui.cli import main as cli

    name, nth, what = sys.argv[1:4]
    is_slow = what.endswith("s")
    call = SlowCall(name, int(nth), float(what[:-1])) if is_slow else FailingCall(name, int(nth), getattr(errno, what))
    setattr(os, name, call)
    return cli.main(sys.argv[7:])  # sys.argv[4:7] is PYTHON -m gpt_tui


if __name__ == "__main__":
    sys.exit(main())
