"""The mathematics of the transformer, one operation a module, each forward above its backward.

Legend, used everywhere: B batch, T time, C channels, H heads, D head size (C = H * D), F hidden, V vocabulary,
L layers, N = B * T. Arrays are float32 and row-major. Gradients are called `d_<name>`: gradients of parameters
accumulate, gradients of activations overwrite, and a docstring says so where it is otherwise.

Every kernel takes NumPy arrays, checks their shapes, and computes without the GIL on `threads.get_threads()` threads.
The modules are compiled once for each instruction-set level; this package loads the fastest one that the processor has
(GPT_TUI_LEVEL=baseline, x86_64_v3 or x86_64_v4 asks for another).
"""

from __future__ import annotations

import os
from pathlib import Path

from gpt_core.cpu import supported_levels


def _choose_level() -> str:
    built = [name for name in supported_levels() if Path(__file__).with_name(name).is_dir()]
    asked = os.environ.get("GPT_TUI_LEVEL", "")
    if asked and asked not in built:
        raise ImportError(f"GPT_TUI_LEVEL is {asked!r}; this machine and build have {', '.join(built)}")
    return asked or built[0]


LEVEL = _choose_level()
__path__.insert(0, str(Path(__file__).with_name(LEVEL)))
