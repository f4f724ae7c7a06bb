"""Process-wide settings that must be in place before the first kernel loads.

`load_kernels` does, in this order:

1. libgomp: sets its spin count and thread affinity, which it reads from the environment once, when it loads.
2. BLAS: loads the OpenBLAS of the scipy-openblas32 wheel, against which the kernels are linked.
3. Instruction-set level: puts the folder of the fastest level that this processor supports on the package's path.
4. Affinity: loads one kernel, and with it libgomp, then lets the calling thread run on any core again.

Thread policy (speed only): each thread that OpenMP starts is bound to one core, the thread that calls a kernel only
within `threads.Bound`, and an idle one spins for about 3,000 iterations before it sleeps. A thread that is woken on the
core of the thread that woke it may stay there for seconds; libgomp's default spin is about one millisecond.
Milliseconds per step of nanoGPT's shape on two cores, idle machine / machine shared with another busy process:

    not bound, spin count  1,000    16 / 28
    not bound, spin count 10,000    11 / 40 to 60
    bound,     spin count  3,000    11 / 24
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpt_core.cgroups import cpu_quota
from gpt_core.errors import ConfigError

SPIN_COUNT = "3000"
BINDING = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}

EMULATED_TILES = "emulated_tiles"
"""Level of checked builds: tests the products in tiles on processors without AMX."""

CORES = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
"""The CPUs that this process may use; None where the operating system does not report them."""


@functools.cache
def available_cores() -> int:
    """Return the number of CPUs that this process may use: those of its affinity, at most its CPU quota.

    With more threads than the quota, all of them are stopped for most of every period.
    """
    cores = len(CORES) if CORES else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def default_threads(environ: Mapping[str, str] = os.environ) -> int:
    """Return the default number of compute threads: one per available core, at most OMP_NUM_THREADS."""
    requested = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is per level of nesting
    return min(available_cores(), int(requested)) if requested.isdecimal() and int(requested) else available_cores()


def compute_threads(requested: int) -> int:
    """Return the number of threads to use for the setting `threads`: 0 is the default, at most one per core.

    More threads than cores wait for each other in every kernel: 64 threads on 2 cores are 30 times slower than 2.
    """
    return min(requested, available_cores()) if requested else default_threads()


def threads_warning(requested: int) -> str:
    """Return a line if fewer threads than requested are used, else ""."""
    used = compute_threads(requested)
    if requested <= used:
        return ""
    return f"threads: got {requested}, using {used}: this process may use {used} core{'s' * (used != 1)}"


def load_kernels(package_path: list[str]) -> str:
    """Make the compiled kernels importable from the package `gpt_core.kernels`.

    Args:
        package_path: The package's `__path__`. The folder of the chosen level is inserted at the front.

    Returns:
        The chosen instruction-set level: "baseline", "x86_64_v3", "x86_64_v4", "x86_64_v4_bf16" or "x86_64_v4_amx"; on
        Arm "baseline" or "aarch64_bf16".

    Raises:
        ConfigError: The level that GPT_TUI_LEVEL names is not available.
        ImportError: No level is compiled, or a compiled kernel cannot be loaded.
    """
    package = Path(package_path[0])
    with _openmp_settings():
        _load_openblas()
        level = _choose_level(package)
        package_path.insert(0, str(package / level))
        importlib.import_module("gpt_core.kernels.adamw")  # loads libgomp, which binds the calling thread
        if CORES:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, CORES)
    return level


@contextlib.contextmanager
def _openmp_settings() -> Iterator[None]:
    """Set libgomp's environment variables, except where you have set your own; remove the affinity on exit.

    Child processes would inherit the affinity otherwise.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    binding = {} if {*BINDING, "GOMP_CPU_AFFINITY"} & os.environ.keys() else BINDING
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        binding = binding | {"OPENBLAS_NUM_THREADS": "1"}  # the kernels split the work among their own threads
    os.environ |= binding
    try:
        yield
    finally:
        for name in binding:
            del os.environ[name]


def _load_openblas() -> None:
    """Load the OpenBLAS of the scipy-openblas32 wheel, wherever it is installed.

    The package itself is not imported: that takes longer than the rest of this module.
    """
    found = importlib.util.find_spec("scipy_openblas32")
    if found is not None and found.origin is not None:
        for library in sorted(Path(found.origin).with_name("lib").glob("*scipy_openblas*.[sd]*")):
            ctypes.CDLL(str(library))


def _choose_level(package: Path) -> str:
    """Return the level that GPT_TUI_LEVEL names, or else the fastest that is both compiled and supported."""
    try:
        from gpt_core.kernels._runtime.cpu import supported_levels  # may load libgomp, so only after its settings
    except ModuleNotFoundError:
        levels: list[str] = []
    else:
        levels = [*supported_levels(), EMULATED_TILES]
    available = [name for name in levels if any((package / name).glob("threads.*"))]
    if not available:
        raise ImportError(
            f"no compiled kernels in {package}; start Python outside the source folder to use an installed gpt-tui, "
            "or run `pip install -e .` there",
            name="gpt_core.kernels",
        )
    requested = os.environ.get("GPT_TUI_LEVEL", "")
    if requested and requested not in available:
        raise ConfigError(f"GPT_TUI_LEVEL: got {requested!r}, expected one of {', '.join(available)}")
    return requested or available[0]
