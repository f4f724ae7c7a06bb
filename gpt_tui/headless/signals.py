"""Signal handlers of a headless run. They only set a flag, which the trainer reads at its next step boundary.

SIGINT, SIGTERM and SIGHUP save and stop the run with exit code 128 + signal number; SIGUSR1 saves and continues.
A signal that is ignored when the program starts stays ignored: SIGHUP under nohup, SIGINT in a job that a shell script
starts in the background with `&`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from gpt_core.distributed.communicator import SINGLE_PROCESS, Communicator
from gpt_core.training.trainer import Trainer
from gpt_tui.shared.interrupts import Interrupted, available
from gpt_tui.shared.standard_streams import is_terminal

SHOW_CURSOR = b"\x1b[?25h"
SAVE_POLL_S = 0.01
SAME_PRESS_S = 1.0
"""Time within which a second signal counts as the same one: a double press, or a wrapper that forwards it"""


class RunSignals:
    """Context manager that handles the signals of one run. Before `watch` is called there is nothing to save.

    The first stop signal requests a stop. A second one, at least a second later, ends the process at once, after any
    save in progress: of a rank other than 0, after those of rank 0.

    Args:
        ranks: Ranks of the run.
    """

    def __init__(self, ranks: Communicator = SINGLE_PROCESS) -> None:
        self._ranks = ranks
        self.stopped_by: signal.Signals | None = None
        self._stopped_at_s = 0.0
        self._is_done = False
        self._trainer: Trainer | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def watch(self, trainer: Trainer) -> None:
        """Direct signals to this trainer, including one that arrived earlier without effect.

        Python drops an exception that a signal handler raises during a destructor or a callback from C.
        """
        self._trainer = trainer
        if self.stopped_by is not None:
            raise Interrupted(self.exit_code)

    def unwatch(self) -> None:
        """Direct signals to no trainer: the run has ended. If a signal has stopped it, further ones have no effect."""
        self._trainer, self._is_done = None, self.stopped_by is not None

    @property
    def exit_code(self) -> int:
        """Exit code: 128 + the number of the signal that stopped the run, 0 if none did."""
        return 128 + self.stopped_by if self.stopped_by is not None else 0

    def __enter__(self) -> RunSignals:
        for number in available("SIGINT", "SIGTERM", "SIGHUP"):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_stop)
        for number in available("SIGUSR1"):
            self._previous[number] = signal.signal(number, self._on_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # after a stop the process only exits: a second press must not change its exit code
            signal.signal(number, handler if self.stopped_by is None else signal.SIG_IGN)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._is_done:
            return
        if self.stopped_by is None:
            self.stopped_by, self._stopped_at_s = signal.Signals(number), time.monotonic()
        if self._trainer is None:
            raise Interrupted(self.exit_code)
        is_forced = time.monotonic() - self._stopped_at_s > SAME_PRESS_S
        self._trainer.requests.stop(save=not is_forced)
        if is_forced:
            while self._trainer.saving:  # the saving thread does not depend on the interrupted one
                time.sleep(SAVE_POLL_S)
            if not self._trainer.ending:
                leave_now(self.exit_code, self._ranks.leave)

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        if self._trainer is not None:
            self._trainer.requests.save()


def leave_now(exit_code: int, end: Callable[[int], NoReturn] = os._exit) -> NoReturn:
    """End the process without unwinding: the trainer may be inside an update, which must not be saved.

    Args:
        exit_code: Exit code.
        end: Ends the process, and the other ranks of a run.
    """
    with contextlib.suppress(OSError, ValueError):
        if is_terminal(sys.stdout):
            os.write(sys.stdout.fileno(), SHOW_CURSOR + b"\r\n")
        if sys.stderr is not None:
            os.write(sys.stderr.fileno(), b"gpt-tui: exited at once, without another save\n")
    end(exit_code)
