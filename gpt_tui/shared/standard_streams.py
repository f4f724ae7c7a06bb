"""Standard output whose errors name it, and standard error whose errors are ignored."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from gpt_tui.shared.sanitize import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputError(OSError):
    """Standard output cannot be written: the disk is full, or it is closed."""


class _Output(io.FileIO):
    """Unbuffered standard output. A closed pipe stays a BrokenPipeError."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the data. Raises OutputError."""
        try:
            return super().write(data)
        except (BrokenPipeError, BlockingIOError):
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from None


class _Messages(io.FileIO):
    """Unbuffered standard error. A message that cannot be written is dropped: it must not end a run."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the data."""
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def guard_standard_streams() -> None:
    """Replace the standard streams of this process, unless they are not those that it was started with.

    A closed standard error becomes the null device: without it, `print` would write messages to standard output, and a
    file of the run could have its descriptor.
    """
    if _is_original(sys.stdout, sys.__stdout__):
        sys.stdout = _wrapped(_Output, sys.stdout, "replace")  # in a limited locale, replace characters
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    elif _is_original(sys.stderr, sys.__stderr__):
        sys.stderr = _wrapped(_Messages, sys.stderr, "backslashreplace")


def print_utf8() -> None:
    """Print in UTF-8 from now on, in every locale, as formats such as JSON and TOML require it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")


def is_terminal(stream: TextIO | None) -> bool:
    """Return True if a standard stream is a terminal; a closed one is None."""
    return stream is not None and stream.isatty()


def can_redraw(stream: TextIO | None) -> bool:
    """Return True if a standard stream is a terminal that can draw a line again."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def can_print(text: str, stream: TextIO | None) -> bool:
    """Return True if a stream prints the text as it is, False if its encoding lacks some of the characters."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def discard_output() -> None:
    """Send standard output to the null device, so that the flush at the end of the process does not fail again."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_original(stream: TextIO | None, original: TextIO | None) -> bool:
    return stream is not None and stream is original and isinstance(stream, io.TextIOWrapper)


def _wrapped(kind: type[io.FileIO], stream: TextIO, errors: str) -> io.TextIOWrapper:
    stream.flush()
    raw = kind(stream.fileno(), "wb", closefd=False)
    is_error = kind is _Messages
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=errors, line_buffering=is_error or raw.isatty()
    )


def say(stream: TextIO, line: str) -> None:
    """Print one line of plain text, complete: a command that is cut off, or has other spaces, cannot be run."""
    print(" ".join(printable(line).split("\n")), file=stream, flush=True)
