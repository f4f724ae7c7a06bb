"""The terminal may go away under a running app: then nothing may block, spin or raise, so that the run can be saved.

Textual's own driver leaves a dead writer thread behind whose queue fills up and blocks the event loop, and its input
thread reads an end of file for ever. And its handler of SIGTSTP writes to that queue wherever it interrupts the event
loop: where that is the queue itself, whose lock the loop then holds, the app would hang for good.
"""

from __future__ import annotations

import asyncio
import signal
import termios
from io import TextIOWrapper
from typing import IO, cast

from textual.drivers.linux_driver import LinuxDriver


class SteadyFile:
    """A text stream that drops what it is given once its terminal is gone."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Writes, or drops."""
        try:
            return self._file.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        try:
            self._file.flush()
        except OSError:
            return

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Whether it is, or was, a terminal."""
        return self._file.isatty()


class HangupSafeDriver(LinuxDriver):
    """Textual's driver for Linux and macOS, over a terminal that may hang up."""

    def start_application_mode(self) -> None:
        """Begins, also after a suspension."""
        if not isinstance(self._file, SteadyFile):
            self._file = cast(TextIOWrapper, SteadyFile(cast(IO[str], self._file)))
        super().start_application_mode()  # type: ignore[no-untyped-call]
        asyncio.get_running_loop().add_signal_handler(signal.SIGTSTP, self._sigtstp_application)

    def _sigcont_application(self, *_: object) -> None:
        """Goes on after a suspension; it comes right behind the SIGSTOP of one, so it interrupts nothing else."""
        if self._must_signal_resume:
            super()._sigcont_application()

    def is_lost(self) -> bool:
        """Whether the terminal has hung up; from then on nothing is read from it."""
        if not self.input_tty:
            return False
        try:
            termios.tcgetattr(self.fileno)
        except termios.error:
            self.exit_event.set()
            return True
        return False

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:
            return  # `is_lost` tells the app
