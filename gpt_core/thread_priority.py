"""Priority of threads: training runs before work that it does not wait for, and after what users wait for."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

MAX_NICE = 19


def lower_priority(by: int) -> None:
    """Lower the priority of the calling thread, and of threads that it starts, by steps of the nice value.

    Only on Linux, where each thread has a priority of its own; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + by
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness, MAX_NICE))
