"""Threads that work beside the screen, which comes first."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

TRAINING, CHECKING = 10, 15  # how nice: the screen comes before training, training before the reading of files


def yield_to_others(niceness: int) -> None:
    """Lowers the priority of the calling thread and of those it begins, for good; on Linux, which has one for each."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
