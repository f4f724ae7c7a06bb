"""Driver for the terminal of a launcher (`gpt_tui.app.launcher_terminal`)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty
from typing import Any

from textual.geometry import Size

from gpt_tui.app.driver import HangupSafeDriver


class LauncherDriver(HangupSafeDriver):
    """Driver whose input is a pipe, and whose output is a terminal of another session.

    The system reports a new size of the terminal to the launcher alone, so it is read regularly.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        for name in ("COLUMNS", "LINES"):  # sizes of before, which would hide that of the terminal
            os.environ.pop(name, None)
        super().__init__(*arguments, **options)
        assert sys.__stdout__ is not None
        self.terminal = sys.__stdout__.fileno()
        self.input_tty = True
        self._modes: list[Any] | None = None

    def start_application_mode(self) -> None:
        """Start, without echo and line editing."""
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # where rank 0 has the session of the launcher, but not its group
        with contextlib.suppress(termios.error):
            self._modes = termios.tcgetattr(self.terminal)
            raw = termios.tcgetattr(self.terminal)
            raw[tty.LFLAG] = self._patch_lflag(raw[tty.LFLAG])
            raw[tty.IFLAG] = self._patch_iflag(raw[tty.IFLAG])
            raw[tty.CC][termios.VMIN] = 1
            termios.tcsetattr(self.terminal, termios.TCSANOW, raw)
        super().start_application_mode()

    def stop_application_mode(self) -> None:
        """Stop, and restore the modes of the terminal."""
        super().stop_application_mode()
        if self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.terminal, termios.TCSAFLUSH, self._modes)

    def follow_size(self) -> None:
        """Give the screen the size of the terminal if it has another one. Called regularly from the event loop."""
        with contextlib.suppress(OSError):
            if Size(*os.get_terminal_size(self.terminal)) != self._app.screen.size:
                signal.raise_signal(signal.SIGWINCH)
