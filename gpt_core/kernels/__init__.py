"""The mathematics of the transformer, one operation a module, each forward above its backward.

Legend, used everywhere: B batch, T time, C channels, H heads, D head size (C = H * D), F hidden, V vocabulary,
L layers, N = B * T. Arrays are float32 and row-major. Gradients are called `d_<name>`: gradients of parameters
accumulate, gradients of activations overwrite, and a docstring says so where it is otherwise.

Every kernel takes NumPy arrays, checks their shapes, and computes without the GIL on `threads.get_threads()` threads.
The modules are compiled once for each instruction-set level; this package loads the fastest one that the processor has
(GPT_TUI_LEVEL=baseline, x86_64_v3 or x86_64_v4 asks for another).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
from pathlib import Path

# How long a thread of the team that has nothing left to do spins before it sleeps; libgomp's own choice is about a
# millisecond. And each thread keeps to a core of its own: a thread that was woken on the core of the one that woke it
# may stay there for seconds. A step of nanoGPT's shape on two cores, in milliseconds on an idle machine, and on one
# where another process computes: 16 and 28 with threads that may move and spin for 1,000, 11 and 40 to 60 for 10,000;
# 11 and 24 with threads that stay and spin for 3,000.
SPIN_COUNT = "3000"

CORES = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
"""The processors that this process may use; None where the system does not tell."""


def available_cores() -> int:
    """How many processors this process may use."""
    return len(CORES) if CORES else os.cpu_count() or 1


def use_any_core() -> None:
    """Lets the calling thread run anywhere: one that computes keeps to a core, as do those that it begins."""
    if CORES:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, CORES)


def _load_blas() -> None:
    """Loads the OpenBLAS of the scipy-openblas32 wheel, so that the kernels find it wherever they are installed.

    Not by importing that package, which takes longer than all the rest.
    """
    found = importlib.util.find_spec("scipy_openblas32")
    if found is not None and found.origin is not None:
        for library in sorted(Path(found.origin).with_name("lib").glob("*scipy_openblas*.[sd]*")):
            ctypes.CDLL(str(library))


def _choose_level() -> str:
    from gpt_core.cpu import supported_levels

    built = [name for name in supported_levels() if any(Path(__file__).with_name(name).glob("threads.*"))]
    if not built:
        raise ImportError(f"no compiled kernels in {Path(__file__).parent}; install the project, or build it in place")
    asked = os.environ.get("GPT_TUI_LEVEL", "")
    if asked and asked not in built:
        raise ImportError(f"GPT_TUI_LEVEL is {asked!r}; this machine and build have {', '.join(built)}")
    return asked or built[0]


if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when the first kernel loads libgomp
_binding = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
if {*_binding, "GOMP_CPU_AFFINITY"} & os.environ.keys():
    _binding = {}  # the user has other plans
os.environ |= _binding
_load_blas()
LEVEL = _choose_level()
__path__.insert(0, str(Path(__file__).with_name(LEVEL)))
importlib.import_module("gpt_core.kernels.adamw")  # one that uses libgomp, which binds the thread that loads it
use_any_core()
for _name in _binding:  # not for programs that this one starts
    del os.environ[_name]
