"""Priority of worker threads: lower than that of the screen."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

TRAINING, CHECKING = 10, 15  # nice values: the screen (0) runs before training, training before reading files


def lower_priority(niceness: int) -> None:
    """Lower the priority of the calling thread and of threads that it starts. Only on Linux: priority is per thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
