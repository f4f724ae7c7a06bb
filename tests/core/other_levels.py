"""What a script prints at the levels of instructions that this machine has besides the one that tests run at."""

from __future__ import annotations

import os
import subprocess
import sys

from gpt_core import kernels
from gpt_core.cpu import supported_levels

OTHER_LEVELS = [name for name in supported_levels() if name != kernels.LEVEL]


def printed_at(level: str, script: str) -> float:
    """The number that the script prints, in a process of its own whose kernels are of that level."""
    done = subprocess.run(
        [sys.executable, "-c", f"from gpt_core import kernels\nassert kernels.LEVEL == {level!r}\n{script}"],
        env={**os.environ, "GPT_TUI_LEVEL": level}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
