"""Run scripts at the instruction-set levels that this machine supports, other than the one the tests use."""

from __future__ import annotations

import os
import subprocess
import sys

from gpt_core import kernels
from gpt_core.kernels._runtime.cpu import supported_levels

OTHER_LEVELS = [name for name in supported_levels() if name != kernels.LEVEL]


def printed_at(level: str, script: str) -> list[float]:
    """Return the numbers that `script` prints, one per line, in a separate process that uses the kernels of `level`."""
    done = subprocess.run(
        [sys.executable, "-c", f"from gpt_core import kernels\nassert kernels.LEVEL == {level!r}\n{script}"],
        env={**os.environ, "GPT_TUI_LEVEL": level}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]
