"""What this machine can do at most, measured with the project's own kernels on the threads that are set."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_core.kernels import adamw, gemm, linear

SGEMM_SIZE = 2048  # rows and columns: large enough for the best rate, 48 MiB in all
READ_BYTES = 256 << 20  # far more than caches hold
LEAST_REPEATS = 5
TRIALS = 3


class RateMeter:
    """The rate of one action, from repeats that are spread between other measurements.

    On a machine that others use too, what slows those down then slows this down as well, and their ratio keeps its
    meaning.
    """

    def __init__(self, action: Callable[[], object], amount: float) -> None:
        """`amount`: what one action does, of which `rate` is so much a second. It is done once, and not counted."""
        self._action = action
        self._amount = amount
        self._seconds: list[float] = []
        action()

    def repeat_until(self, total_s: float) -> None:
        """Repeats it until all repeats together have taken that long."""
        while sum(self._seconds) < total_s:
            self.repeat()

    @property
    def rate(self) -> float:
        """Of the median of all repeats, of which there are five at least."""
        while len(self._seconds) < LEAST_REPEATS:
            self.repeat()
        return self._amount / statistics.median(self._seconds)

    @property
    def best(self) -> float:
        """Of the fastest repeat."""
        return self._amount / min(self._seconds)

    def repeat(self) -> None:
        """Does it once more."""
        started = time.perf_counter()
        self._action()
        self._seconds.append(time.perf_counter() - started)


def sgemm_meter() -> RateMeter:
    """Operations a second of one large product of float32 matrices, the bound of everything made of products.

    By the kernel that was the faster one in three trials: BLAS's or the project's own.
    """
    a, b, c = (np.full((SGEMM_SIZE, SGEMM_SIZE), 0.5, dtype=np.float32) for _ in range(3))
    operations = 2 * SGEMM_SIZE**3
    gauges = [RateMeter(lambda product=product: product(c, a, b), operations)  # type: ignore[misc]
              for product in (linear.product, gemm.library_product)]  # fmt: skip
    for _ in range(TRIALS):
        for gauge in gauges:
            gauge.repeat()
    return max(gauges, key=lambda gauge: gauge.best)


def memory_read_meter() -> RateMeter:
    """Bytes a second of reading memory from one end to the other: a norm, which computes next to nothing."""
    values = np.ones(READ_BYTES // 4, dtype=np.float32)  # written: pages never touched would not be read from memory
    return RateMeter(lambda: adamw.norm(values), values.nbytes)


def processor_name() -> str:
    """As the system calls it."""
    named = [line.partition(":")[2].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Bytes of memory that this process has held at most so far; None where the system does not tell."""
    for line in lines_of("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int | None:
    """Bytes of memory that a process can still take without others having to give way; None if nobody tells.

    In a container that is no more than the container has left.
    """
    meminfo = dict(line.split(":", 1) for line in lines_of("/proc/meminfo") if ":" in line)
    words = meminfo.get("MemAvailable", "").split()
    found = [int(words[0]) * 1024] if words else []
    limit, used = (lines_of(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        found.append(max(0, int(limit[0]) - int(used[0])))
    return min(found, default=None)


def lines_of(path: str) -> list[str]:
    """The lines of one of the system's files; none where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
