"""Driver for terminals that may hang up: nothing blocks, spins or raises then, so that the run can be saved.

Textual's driver has three faults after a hangup or a suspension. The queue of its dead writer thread fills up and
blocks the event loop. Its input thread reads end of file in a loop. Its SIGTSTP handler writes to that queue wherever
it interrupts the event loop, and deadlocks if the loop holds the lock of the queue.
"""

from __future__ import annotations

import asyncio
import signal
import termios
from io import TextIOWrapper
from typing import IO, Any, cast

from textual.drivers.linux_driver import LinuxDriver


class SteadyFile:
    """Text stream that discards writes after its terminal has hung up."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write, or discard after a hangup."""
        try:
            return self._file.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush, unless the terminal has hung up."""
        try:
            self._file.flush()
        except OSError:
            return

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Return True if the stream is a terminal, also after a hangup."""
        return self._file.isatty()


class HangupSafeDriver(LinuxDriver):
    """Textual's driver for Linux and macOS, safe against hangups.

    Attributes:
        terminal: Descriptor of the terminal.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.terminal = self.fileno

    def start_application_mode(self) -> None:
        """Start, also after a suspension."""
        if not isinstance(self._file, SteadyFile):
            self._file = cast(TextIOWrapper, SteadyFile(cast(IO[str], self._file)))
        super().start_application_mode()  # type: ignore[no-untyped-call]
        asyncio.get_running_loop().add_signal_handler(signal.SIGTSTP, self._sigtstp_application)

    def _sigcont_application(self, *_: object) -> None:
        """Continue after a suspension. SIGCONT follows the SIGSTOP directly, so it interrupts nothing else."""
        if self._must_signal_resume:
            super()._sigcont_application()

    def is_lost(self) -> bool:
        """Return True if the terminal has hung up, which ends input."""
        if not self.input_tty:
            return False
        try:
            termios.tcgetattr(self.terminal)
        except termios.error:
            self.exit_event.set()
            return True
        return False

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:
            return  # `is_lost` reports it
