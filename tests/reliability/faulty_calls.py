"""The program with calls of a function of `os` that fail or take long, whichever thread makes them.

`python -m tests.reliability.faulty_calls fsync 4 ENOSPC PYTHON -m gpt_tui ...`: the fourth fsync fails. With `3s` in
place of the error the fourth and all after it take three seconds. (`strace` counts the calls of each thread by
themselves, and a save has a thread of its own.)
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import Any


class FailingCall:
    """Stands in for a function of `os`: its n-th call raises, after doing its work if `after`."""

    def __init__(self, name: str, nth: int, number: int, *, after: bool = False) -> None:
        self.real, self.left, self.number, self.after = getattr(os, name), nth, number, after
        self.failed = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left:
            return self.real(*arguments, **named)
        self.failed = True
        if self.after:
            self.real(*arguments, **named)
        raise OSError(self.number, os.strerror(self.number))


class SlowCall:
    """Stands in for a function of `os`: from its n-th call on it takes long."""

    def __init__(self, name: str, nth: int, seconds: float) -> None:
        self.real, self.left, self.seconds = getattr(os, name), nth, seconds

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left <= 0:
            time.sleep(self.seconds)
        return self.real(*arguments, **named)


def faulty(name: str, nth: str, what: str) -> tuple[str, ...]:
    """What comes before the words of the program on a command line, for it to have such a call."""
    return (sys.executable, "-m", "tests.reliability.faulty_calls", name, nth, what)


def main() -> int:
    """Run the program so, and give its exit code."""
    from gpt_tui.cli import main as cli

    name, nth, what = sys.argv[1:4]
    is_slow = what.endswith("s")
    call = SlowCall(name, int(nth), float(what[:-1])) if is_slow else FailingCall(name, int(nth), getattr(errno, what))
    setattr(os, name, call)
    return cli.main(sys.argv[7:])  # the words between are PYTHON -m gpt_tui


if __name__ == "__main__":
    sys.exit(main())
