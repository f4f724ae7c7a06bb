"""The mathematics of the transformer, one operation a module, each forward above its backward.

Legend, used everywhere: B batch, T time, C channels, H heads, D head size (C = H * D), F hidden, V vocabulary,
L layers, N = B * T. Arrays are float32 and row-major. Gradients are called `d_<name>`: gradients of parameters
accumulate, gradients of activations overwrite, and a docstring says so where it is otherwise.

Every kernel takes NumPy arrays, checks their shapes, and computes without the GIL on `threads.get_threads()` threads.
The modules are compiled once for each instruction-set level; this package loads the fastest one that the processor has
(GPT_TUI_LEVEL=baseline, x86_64_v3 or x86_64_v4 asks for another).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

from gpt_core.cpu import supported_levels

# How long a thread of the team that has nothing left to do spins before it sleeps. libgomp's own choice is about
# a millisecond: on a machine where another process is busy too, nano trained 2 to 10 times slower with it. With this
# one it is as fast on an idle machine (22,000 tokens/s either way); without any spinning it is 15% slower.
SPIN_COUNT = "1000"


def _load_blas() -> None:
    """Loads the OpenBLAS of the scipy-openblas32 wheel, so that the kernels find it wherever they are installed.

    Not by importing that package, which takes longer than all the rest.
    """
    found = importlib.util.find_spec("scipy_openblas32")
    if found is not None and found.origin is not None:
        for library in sorted(Path(found.origin).with_name("lib").glob("*scipy_openblas*.[sd]*")):
            ctypes.CDLL(str(library))


def _choose_level() -> str:
    built = [name for name in supported_levels() if any(Path(__file__).with_name(name).glob("threads.*"))]
    if not built:
        raise ImportError(f"no compiled kernels in {Path(__file__).parent}; install the project, or build it in place")
    asked = os.environ.get("GPT_TUI_LEVEL", "")
    if asked and asked not in built:
        raise ImportError(f"GPT_TUI_LEVEL is {asked!r}; this machine and build have {', '.join(built)}")
    return asked or built[0]


if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when the first kernel loads libgomp
_load_blas()
LEVEL = _choose_level()
__path__.insert(0, str(Path(__file__).with_name(LEVEL)))
