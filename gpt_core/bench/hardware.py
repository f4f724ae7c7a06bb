"""Limits of this machine: rates measured with the project's kernels on the threads in use, and memory."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_core import cgroups
from gpt_core.kernels import decoding, gemm, linear

SGEMM_SIZE = 2048  # rows and columns: large enough for the highest rate, 48 MiB in all
READ_BYTES = 256 << 20  # far more than caches hold
MIN_REPEATS = 5
TRIALS = 3


class RateMeter:
    """Rate of one action, from repeats that are spread between other measurements.

    Other load on the machine then slows both down alike, and their ratio keeps its meaning.
    """

    def __init__(self, action: Callable[[], object], amount: float) -> None:
        """Run the action once as a warm-up.

        Args:
            action: What is timed.
            amount: Work per call, in the unit of `rate` times seconds.
        """
        self._action = action
        self._amount = amount
        self._seconds: list[float] = []
        action()

    def repeat_until(self, total_s: float) -> None:
        """Repeat the action until all repeats together have taken `total_s`."""
        while sum(self._seconds) < total_s:
            self.repeat()

    @property
    def rate(self) -> float:
        """Work per second of the median repeat; repeats up to `MIN_REPEATS` first."""
        while len(self._seconds) < MIN_REPEATS:
            self.repeat()
        return self._amount / statistics.median(self._seconds)

    @property
    def best(self) -> float:
        """Work per second of the fastest repeat."""
        return self._amount / min(self._seconds)

    def repeat(self) -> None:
        """Time the action once."""
        started = time.perf_counter()
        self._action()
        self._seconds.append(time.perf_counter() - started)


def sgemm_meter() -> RateMeter:
    """Return a meter of FLOP per second of one large product of float32 matrices, the limit of training and prefill.

    It uses the faster kernel of BLAS's and the project's own, by the best of three trials.
    """
    a, b, c = (np.full((SGEMM_SIZE, SGEMM_SIZE), 0.5, dtype=np.float32) for _ in range(3))
    flops = 2 * SGEMM_SIZE**3
    meters = [RateMeter(lambda product=product: product(c, a, b), flops)  # type: ignore[misc]
              for product in (linear.product, gemm.library_product)]  # fmt: skip
    for _ in range(TRIALS):
        for meter in meters:
            meter.repeat()
    return max(meters, key=lambda meter: meter.best)


def bfloat16_meter() -> RateMeter:
    """Return a meter of FLOP per second of one large product in bfloat16, the limit of training in that format."""
    a, b, c = (np.full((SGEMM_SIZE, SGEMM_SIZE), 0.5, dtype=np.float32) for _ in range(3))
    return RateMeter(lambda: linear.product(c, a, b, bfloat16=True), 2 * SGEMM_SIZE**3)


def memory_read_meter() -> RateMeter:
    """Return a meter of bytes per second of a sequential read of memory, the limit of decoding: a sum of values."""
    values = np.ones(READ_BYTES // 4, dtype=np.float32)  # written, so that its pages exist
    return RateMeter(lambda: decoding.total(values), values.nbytes)


def processor_name() -> str:
    """Return the processor's name as the system reports it."""
    names = [line.partition(":")[2].strip() for line in read_lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Return this process's peak memory in bytes so far; None if the system does not report it."""
    for line in read_lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int | None:
    """Return the bytes that a process can allocate without swapping; None if the system does not report it.

    In a container this is at most what remains of the container's limit.
    """
    meminfo = dict(line.split(":", 1) for line in read_lines("/proc/meminfo") if ":" in line)
    words = meminfo.get("MemAvailable", "").split()
    free = [int(words[0]) * 1024] if words else []
    if (left := cgroups.free_memory()) is not None:
        free.append(left)
    return min(free, default=None)


def read_lines(path: str) -> list[str]:
    """Return the lines of a system file; an empty list if it does not exist."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
