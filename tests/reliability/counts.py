"""How often a case is tried: seldom by default, in full with GPT_TUI_FULL=1, or a share of that, GPT_TUI_FULL=0.1."""

from __future__ import annotations

import os

SHARE = float(os.environ.get("GPT_TUI_FULL") or 0)


def count(short: int, full: int) -> int:
    """`short`, or the share of `full` that is asked for where that is more."""
    return max(short, round(full * SHARE))
