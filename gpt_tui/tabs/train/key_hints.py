"""Hints about keys that do nothing."""

from __future__ import annotations

import time

from textual.widget import Widget

HINT_S = 4.0
"""Time for which a hint is shown, and not repeated."""


class KeyHints:
    """Shows why a key does nothing; a hint that is on the screen is not repeated.

    Args:
        widget: Widget that posts the notifications.
    """

    def __init__(self, widget: Widget) -> None:
        self._widget = widget
        self._hint, self._shown_at_s = "", 0.0

    def show(self, hint: str) -> None:
        """Show a hint, unless it is shown already; "" shows nothing."""
        now_s = time.monotonic()
        if hint and (hint != self._hint or now_s - self._shown_at_s > HINT_S):
            self._hint, self._shown_at_s = hint, now_s
            self._widget.notify(hint, timeout=HINT_S, markup=False)
