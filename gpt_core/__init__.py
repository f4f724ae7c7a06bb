"""gpt_core: a GPT-2-like model on the CPU, from text file to trained weights and back to text.

The numeric core. It knows nothing of terminals: `gpt_tui` is one user of it, a notebook could be another.
"""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    # Loads the OpenBLAS that the kernels are linked with, so that they find it wherever they were built or installed.
    import scipy_openblas32  # noqa: F401

__version__ = "0.1.0"
