"""Number of trials per case: small by default, full with GPT_TUI_FULL=1, a fraction with GPT_TUI_FULL=0.1."""

from __future__ import annotations

import os

SHARE = float(os.environ.get("GPT_TUI_FULL") or 0)


def count(short: int, full: int) -> int:
    """Return the larger of `short` and the requested fraction of `full`."""
    return max(short, round(full * SHARE))
